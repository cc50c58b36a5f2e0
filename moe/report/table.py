"""The few lines that the terminal shows of a placement."""

from rich.console import Console
from rich.table import Table

from moe.placement.evaluation import Evaluation
from moe.placement.placement import Placement
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology
from moe.report.report import DISPATCH_LAWS, DISPATCH_NAMES, saving


def print_summary(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    contiguous: Evaluation,
    placed: Evaluation,
) -> None:
    """Print cost and crossing fractions before and after, and the dispatch mode that they hold for.

    Args:
        placement: The placement with its objective.
        statistics: Counts of the trace on which both are measured.
        topology: Ranks and costs.
        contiguous: Traffic under the contiguous placement.
        placed: Traffic under this placement.
    """
    objective = placement.objective
    assert objective is not None
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    title = f"{placement.num_experts} experts x {placement.num_layers} layers on {shape}"
    table = Table(title=f"{title}: {DISPATCH_NAMES[placement.dispatch]}", title_justify="left")
    table.add_column("per token")
    for name in ("contiguous", "placed", "lower bound"):
        table.add_column(name, justify="right")
    costs = (objective.contiguous_cost, objective.cost, objective.lower_bound)
    table.add_row(f"cost ({topology.unit})", *(f"{cost:.4g}" for cost in costs))
    table.add_row("moves to another rank", f"{contiguous.cross_rank:.1%}", f"{placed.cross_rank:.1%}", "")
    table.add_row("moves to another node", f"{contiguous.cross_node:.1%}", f"{placed.cross_node:.1%}", "")
    busiest = (f"{traffic.imbalance.max():.2f} x mean" for traffic in (contiguous, placed))
    table.add_row("busiest rank of any layer", *busiest, "")
    console = Console()
    console.print(table)
    console.print(
        f"saving {saving(placement):.1%}, certified gap {objective.gap:.1%}; solver {placement.solver.name}, "
        f"seed {placement.solver.seed}; {statistics.num_tokens} tokens, {statistics.dropped} dropped choices, "
        f"{statistics.skipped} skipped transitions",
        highlight=False,
    )
    console.print(DISPATCH_LAWS[placement.dispatch], highlight=False)
