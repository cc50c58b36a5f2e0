"""The summary of a placement for the terminal."""

from typing import Any

from rich.table import Table

from moe.report.summary import DISPATCH_NAMES, byte_unit
from netsim.foundation.terminal import Terminal


def print_summary(numbers: dict[str, Any]) -> None:
    """Print cost, moves and loads before and after, and the dispatch mode that they hold for.

    Args:
        numbers: What `moe.report.summary.summarise` returned.
    """
    cost, trace, moving = numbers["cost_per_token"], numbers["trace"], numbers["moving"]
    shape = f"{numbers['num_nodes']} x {numbers['ranks_per_node']} ranks"
    title = f"{numbers['num_experts']} experts x {numbers['num_layers']} layers on {shape}"
    known = cost["lower_bound"] is not None
    table = Table(title=f"{title}: {DISPATCH_NAMES[numbers['dispatch']]}", title_justify="left")
    table.add_column("per token", no_wrap=True)
    for name in (cost["before_is"], "placed", "lower bound"):
        table.add_column(name, justify="right")
    for row in _rows(numbers):
        table.add_row(*row)
    console = Terminal()
    console.print(table)
    gap = f"certified gap {cost['certified_gap']:.1%}" if known else "no bound is known with replicas"
    saving = f"{cost['saved']:.1%}"
    if numbers["held_out"] is not None:
        saving = f"{numbers['held_out']['saved']:.1%} on held-out tokens, {saving} on those of the trace"
    console.print(
        f"saving {saving}, {gap}; solver {numbers['solver']['name']}, seed {numbers['solver']['seed']}; "
        f"{trace['tokens']} tokens, {trace['dropped_choices']} choices dropped or not used, "
        f"{trace['skipped_moves']} skipped transitions",
        highlight=False,
    )
    if cost["kept"]:
        console.print("keep the placement in use: nothing was found that costs less", highlight=False)
    slots, before = numbers["slots_per_rank"], numbers["slots_per_rank_before"]
    if slots != before:
        console.print(
            f"{slots} slots a rank, {before} in the {cost['before_is']} placement: memory differs", highlight=False
        )
    if moving is not None:
        unit, scale = byte_unit(numbers)
        size = f" ({moving['total_bytes'] / scale:,.3g} {unit} with optimiser state" if moving["total_bytes"] else ""
        if moving["steps_to_pay_back"] is not None:
            size += f", which {moving['steps_to_pay_back']:,.3g} steps save again"
        size += ")" if size else ""
        console.print(
            f"{len(moving['arrivals'])} of {moving['experts']} experts move against the {moving['against']} "
            f"placement{size}",
            highlight=False,
        )
    console.print(numbers["law"], highlight=False)


def _rows(numbers: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, before, placed and bound of each quantity; a quantity that is known of held-out tokens has a second row."""
    cost, held_out = numbers["cost_per_token"], numbers["held_out"]
    bound = "unknown" if cost["lower_bound"] is None else f"{cost['lower_bound']:.4g}"
    quantities = [(f"cost ({cost['unit']})", "{cost_per_token:.4g}", bound)]
    for place in ("rank", "node") if numbers["num_nodes"] > 1 else ("rank",):
        if numbers["sends_copies"]:
            quantities.append((f"moves to another {place}", f"{{moves_to_another_{place}_per_token:.2f}}", ""))
        else:
            quantities.append((f"moves to another {place}", f"{{cross_{place}:.1%}}", ""))
    quantities.append(("busiest rank, worst layer", "{busiest_rank_worst:.2f} x mean", ""))
    if numbers["traffic"]["before"]["predicted_ms_per_step"] is not None:
        quantities.append(("predicted ms a step", "{predicted_ms_per_step:.3f}", ""))
    rows = []
    for name, form, least in quantities:
        pairs = {name: numbers["traffic"]} | ({"  held out": held_out} if held_out else {})
        for label, pair in pairs.items():
            if label == name or "predicted" not in form:
                rows.append((label, *(form.format(**pair[which]) for which in ("before", "placed")), least))
            least = ""
    return rows
