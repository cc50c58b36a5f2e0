"""The numbers of a placement report, as in the JSON file beside the page, and their summary for the terminal.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from moe.placement.cost.evaluation import Evaluation, exchange_seconds
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.topology import Topology
from moe.report.context import Context, HeldOut, Moving
from netsim.foundation.files import write_json
from netsim.foundation.terminal import Terminal

FORMAT = "flowfabric.placement_report/1"
LINKS = ("same_rank", "same_node", "other_node")
_BYTE_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0))
DISPATCH_NAMES = {
    "coherent": "context-coherent dispatch",
    "home": "home-return dispatch",
    "capped": "capped home-return dispatch",
    "copies": "home-return dispatch with one copy a rank",
    "hierarchical": "hierarchical dispatch with one copy a node",
}
DISPATCH_LAWS = {
    "coherent": "These numbers hold for context-coherent dispatch, where a token stays on the rank of its expert. "
    "Inter-layer affinity saves traffic only there: where tokens return home after every layer, this placement "
    "changes nothing.",
    "home": "These numbers hold for home-return dispatch, where a token goes from its own rank to its experts and back "
    "in every layer. A placement saves traffic there only as far as the ranks hold different kinds of tokens; affinity "
    "between layers does not matter.",
    "copies": "These numbers hold for home-return dispatch with one copy a rank, where a token goes once to each rank "
    "that holds any of its experts and back. A placement saves traffic there by putting experts together that are "
    "chosen together; affinity between layers does not matter.",
    "hierarchical": "These numbers hold for hierarchical dispatch, where a token goes once to each node that holds any "
    "of its experts, is passed on inside the node to each rank that does, and comes back the same way. A placement "
    "saves traffic between nodes there by putting experts on one node that are chosen together; affinity between "
    "layers does not matter.",
}


def share_saved(before: Evaluation, placed: Evaluation) -> float:
    """Share of the cost that a placement saves; negative where it costs more, 0 where there was no cost."""
    return 1 - placed.cost / before.cost if before.cost else 0.0


def byte_unit(numbers: dict[str, Any]) -> tuple[str, float]:
    """Choose the unit of all bytes of a report, that of the largest figure: its name and its size in bytes."""
    figures = [numbers["moving"]["total_bytes"] or 0.0] if numbers["moving"] else [0.0]
    for traffic in numbers["traffic"].values():
        figures += (traffic["bytes_per_step"] or traffic["bytes_per_token"] or {}).values()
    return next((unit for unit in _BYTE_UNITS if max(figures) >= unit[1]), _BYTE_UNITS[-1])


def law(placement: Placement, statistics: RoutingStatistics) -> str:
    """Say in a paragraph for which dispatch mode the numbers hold."""
    text = DISPATCH_LAWS[placement.dispatch]
    if placement.dispatch == "coherent" and statistics.coactivation.any():
        if statistics.visits is None:
            text += " The router picks several experts; the cost counts the moves between first choices only, not the "
            text += "copies for the others."
        else:
            text += " The router picks several experts; the cost counts the moves of the first and the copies that the "
            text += "others take there and back."
    if placement.has_replicas:
        text += " A token takes the nearest replica of its expert; replicas at one distance share the tokens evenly."
    return text


def sends_copies(dispatch: Dispatch, statistics: RoutingStatistics) -> bool:
    """Whether one copy of a token may serve several of its experts.

    A placement can then lower the number of moves in all, so that a share of them would hide what it saves.
    """
    return dispatch != "home" and (dispatch != "coherent" or bool(statistics.coactivation.any()))


def summarise(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    before: Evaluation,
    placed: Evaluation,
    context: Context,
) -> dict[str, Any]:
    """Gather the numbers of a report: plain dictionaries, lists, strings, numbers and None."""
    objective = placement.objective
    assert objective is not None
    known = not placement.has_replicas or objective.lower_bound > 0
    traffic = {name: _traffic(e, topology, context) for name, e in (("before", before), ("placed", placed))}
    return {
        "format": FORMAT,
        "dispatch": placement.dispatch,
        "law": law(placement, statistics),
        "sends_copies": sends_copies(placement.dispatch, statistics),
        "num_layers": placement.num_layers,
        "num_experts": placement.num_experts,
        "num_nodes": placement.num_nodes,
        "ranks_per_node": placement.ranks_per_node,
        "slots_per_rank": placement.slots_per_rank,
        "slots_per_rank_before": context.slots or placement.slots_per_rank,
        "solver": {"name": placement.solver.name, "seed": placement.solver.seed},
        "trace": {
            "sha256": placement.trace_sha256,
            "tokens": statistics.num_tokens,
            "dropped_choices": statistics.dropped,
            "skipped_moves": statistics.skipped,
        },
        "cost_per_token": {
            "unit": topology.unit,
            "before": before.cost,
            "before_is": context.before,
            "contiguous": objective.contiguous_cost,
            "placed": placed.cost,
            "lower_bound": objective.lower_bound if known else None,
            "certified_gap": objective.gap if known else None,
            "saved": share_saved(before, placed),
            "kept": context.kept,
            "before_by_layer": before.cost_by_layer.tolist(),
            "placed_by_layer": placed.cost_by_layer.tolist(),
        },
        "traffic": traffic,
        "affinity": {
            "mutual_information": statistics.normalised_mutual_information().tolist(),
            "top_mass": statistics.top_mass(placement.slots_per_rank).tolist(),
            "chance_to_stay": 1 / topology.num_ranks,
        },
        "load_over_mean": {
            "experts": load_percentiles(statistics.loads),
            "ranks_before": load_percentiles(before.rank_loads),
            "ranks_placed": load_percentiles(placed.rank_loads),
            "idle_experts": (statistics.loads == 0).sum(axis=1).tolist(),
        },
        "moving": _moving(context.moving, traffic),
        "simulated": [vars(simulation) for simulation in context.simulations],
        "tradeoff": [vars(point) for point in context.tradeoff],
        "compared": {name: vars(point) for name, point in context.compared.items()},
        "held_out": _held_out(context.held_out),
    }


def load_percentiles(loads: NDArray[np.integer] | NDArray[np.floating]) -> dict[str, list[float]]:
    """Median, 90th and 99th percentile and maximum of loads [L, any] by layer over its mean; 0 without load."""
    relative = loads / np.maximum(loads.mean(axis=1, keepdims=True), 1e-300)
    percentiles = np.percentile(relative, [50, 90, 99, 100], axis=1)
    return dict(zip(("p50", "p90", "p99", "max"), percentiles.tolist(), strict=True))


def write_summary(document: dict[str, Any], path: Path) -> None:
    """Write the numbers; equal ones become equal bytes."""
    write_json(path, document, allow_nan=False)


def _shares(traffic: Evaluation) -> dict[str, float]:
    by_link = traffic.moves_by_link.sum(axis=0)
    return {
        "cost_per_token": traffic.cost,
        "cross_rank": traffic.cross_rank,
        "cross_node": traffic.cross_node,
        "moves_to_another_rank_per_token": float(by_link[1:].sum()),
        "moves_to_another_node_per_token": float(by_link[2]),
        "busiest_rank_mean": float(traffic.imbalance.mean()),
        "busiest_rank_worst": float(traffic.imbalance.max()),
    }


def _traffic(traffic: Evaluation, topology: Topology, context: Context) -> dict[str, Any]:
    volume = context.volume
    moves = traffic.moves_by_link.sum(axis=0)
    document: dict[str, Any] = {
        **_shares(traffic),
        "moves_per_token": dict(zip(LINKS, moves.tolist(), strict=True)),
        "bytes_per_token": None,
        "bytes_per_step": None,
        "predicted_ms_per_step": None,
    }
    if volume.token_bytes is None:
        return document
    document["bytes_per_token"] = dict(zip(LINKS, (moves * volume.token_bytes).tolist(), strict=True))
    if volume.tokens_per_step is None:
        return document
    both_passes = 2 * moves * volume.token_bytes * volume.tokens_per_step
    document["bytes_per_step"] = dict(zip(LINKS, both_passes.tolist(), strict=True))
    if topology.rates is not None:
        tokens = volume.tokens_per_step / volume.micro_batches
        sent = traffic.moves / traffic.num_tokens * tokens * volume.token_bytes
        seconds = exchange_seconds(sent, topology).sum()
        document["predicted_ms_per_step"] = float(2 * volume.micro_batches * seconds * 1e3)
    return document


def _held_out(held_out: HeldOut | None) -> dict[str, Any] | None:
    if held_out is None:
        return None
    document: dict[str, Any] = {"source": held_out.source, "saved": share_saved(held_out.before, held_out.placed)}
    for name, traffic in (("before", held_out.before), ("placed", held_out.placed)):
        document[name] = {"tokens": traffic.num_tokens, **_shares(traffic)}
    return document


def _moving(moving: Moving | None, traffic: dict[str, Any]) -> dict[str, Any] | None:
    if moving is None:
        return None
    steps = None
    if moving.total_bytes and traffic["before"]["bytes_per_step"] is not None:
        before, placed = (sum(traffic[name]["bytes_per_step"][link] for link in LINKS[1:]) for name in traffic)
        steps = moving.total_bytes / (before - placed) if placed < before else None
    return {
        "against": moving.against,
        "experts": moving.experts,
        "arrivals": [dict(zip(("layer", "expert", "rank"), arrival, strict=True)) for arrival in moving.arrivals],
        "bytes_per_parameter": moving.parameter_bytes,
        "expert_parameters": moving.expert_parameters,
        "total_bytes": moving.total_bytes,
        "steps_to_pay_back": steps,
    }


def print_summary(numbers: dict[str, Any]) -> None:
    """Print cost, moves and loads before and after, and the dispatch mode that they hold for."""
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
    """Name, before, placed and bound of each quantity; a second row if it was measured on held-out tokens too."""
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
