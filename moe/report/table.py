"""The summary of a placement for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from moe.placement.cost.evaluation import Evaluation
from moe.placement.placement import Placement
from moe.report.summary import DISPATCH_NAMES


def print_summary(placement: Placement, before: Evaluation, placed: Evaluation, numbers: dict[str, Any]) -> None:
    """Print cost, moves and loads before and after, and the dispatch mode that they hold for.

    Args:
        placement: The placement.
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        numbers: What `moe.report.summary.summarise` returned.
    """
    cost, trace = numbers["cost_per_token"], numbers["trace"]
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    title = f"{placement.num_experts} experts x {placement.num_layers} layers on {shape}"
    table = Table(title=f"{title}: {DISPATCH_NAMES[placement.dispatch]}", title_justify="left")
    table.add_column("per token")
    known = cost["lower_bound"] > 0 or not placement.has_replicas
    for name in (cost["before_is"], "placed", "lower bound"):
        table.add_column(name, justify="right")
    bound = f"{cost['lower_bound']:.4g}" if known else "unknown"
    table.add_row(f"cost ({cost['unit']})", f"{cost['before']:.4g}", f"{cost['placed']:.4g}", bound)
    if placement.dispatch == "copies":  # fewer copies in all: a share of them would hide that
        for first, place in ((1, "rank"), (2, "node")):
            moves = (f"{traffic.moves_by_link[:, first:].sum():.2f}" for traffic in (before, placed))
            table.add_row(f"moves to another {place}", *moves, "")
    else:
        table.add_row("moves to another rank", f"{before.cross_rank:.1%}", f"{placed.cross_rank:.1%}", "")
        table.add_row("moves to another node", f"{before.cross_node:.1%}", f"{placed.cross_node:.1%}", "")
    busiest = (f"{traffic.imbalance.max():.2f} x mean" for traffic in (before, placed))
    table.add_row("busiest rank of any layer", *busiest, "")
    console = Console()
    console.print(table)
    gap = f"certified gap {cost['certified_gap']:.1%}" if known else "no bound is known with replicas"
    console.print(
        f"saving {cost['saved']:.1%}, {gap}; solver {placement.solver.name}, seed {placement.solver.seed}; "
        f"{trace['tokens']} tokens, {trace['dropped_choices']} choices dropped or not used, "
        f"{trace['skipped_moves']} skipped transitions",
        highlight=False,
    )
    moving = numbers["moving"]
    if moving is not None:
        size = f" ({moving['total_bytes'] / 1e6:,.1f} MB with optimiser state)" if moving["total_bytes"] else ""
        console.print(
            f"{len(moving['arrivals'])} of {moving['experts']} experts move against the {moving['against']} "
            f"placement{size}",
            highlight=False,
        )
    console.print(numbers["law"], highlight=False)
