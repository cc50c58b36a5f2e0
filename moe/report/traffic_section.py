"""The sections of the report about traffic: bytes and milliseconds as far as trace and netsim allow, who sends to whom,
and the experts that change rank.

Shape legend: G ranks of one expert-parallel group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.report.context import Context, Moving
from moe.report.summary import LINKS, byte_unit
from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import AMBER, BLUE, FAINT, GREY, RED, SKY, Frames, HeatMap, Histogram, Rows, Stacks
from netsim.foundation.page import Block, Facts, Figure, Note, Section, Table

_MOST_NUMBERED = 8  # ranks whose cells have room for numbers
_MAP_CAPTION = (
    "Who sends to whom: moves of a token from rank to rank in the forward pass, over all layers, darker for more. What "
    "stays on its rank is left out."
)
_MOST_LISTED = 400


def rank_maps(traffic: Mapping[str, Evaluation], ranks_per_node: int) -> str:
    """Draw for each of two placements the moves of a token from rank to rank on one scale; nodes are framed."""
    sent = {name: _sent(evaluation) for name, evaluation in traffic.items()}
    reach = max(float(max(np.nanmax(moves, initial=0.0) for moves in sent.values())), 1e-30)
    panels = []
    for name, moves in sent.items():
        ranks = len(moves)
        between = float(np.nansum(moves * traffic[name].off_node))
        note = f"{np.nansum(moves):.3g} moves a token to other ranks"
        note += f", {between:.3g} of them to other nodes" if traffic[name].off_node.any() else ""
        form = "{:.2g}" if ranks <= _MOST_NUMBERED else ""
        marks: list[HeatMap | Frames] = [HeatMap(moves, high=reach, form=form)]
        if ranks_per_node < ranks:
            corners = np.arange(0, ranks, ranks_per_node) - 0.5
            marks.append(Frames([(low, low + ranks_per_node, low, low + ranks_per_node) for low in corners]))
        ticks = {float(rank): str(rank) for rank in range(0, ranks, -(-ranks // 16))}
        panels.append(Panel(marks, name, note, "to rank", "from rank", x_ticks=ticks, y_ticks=ticks, grid=""))
    key = Key("moves", high=reach, texts={reach * share: f"{reach * share:.2g}" for share in (0.0, 0.5, 1.0)})
    return chart(panels, size=(11.0, 5.2), name="moves", gap=0.05, key=key)


def _sent(evaluation: Evaluation) -> NDArray[np.float64]:
    """Moves of a token from rank to rank, all layers and exchanges together; no number for what stays."""
    moves = evaluation.moves.sum(axis=(0, 1)) / evaluation.num_tokens
    return np.where(np.eye(len(moves), dtype=bool), np.nan, moves)


LINK_NAMES = {"same_rank": "stays on its rank", "same_node": "inside the node", "other_node": "between nodes"}
_LINK_COLOURS = (FAINT, SKY, RED)


def cost_bars(costs: Mapping[str, float], unit: str) -> str:
    """Compare costs per token from top to bottom."""
    looks = {"placed": BLUE, "lower bound": AMBER}
    colours = [looks.get(name, GREY) for name in costs]
    bars = Rows([[cost] for cost in costs.values()], [f"{cost:.3g}" for cost in costs.values()], colours)
    panel = Panel([bars], x=f"cost per token [{unit}]", rows=list(costs), grid="x")
    return chart([panel], size=(11.0, 0.8 + 0.38 * len(costs)), name="costs")


def link_bars(volumes: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Stack what stays, what goes inside a node and what goes between nodes: volumes by placement and class of link."""
    amounts = [[volume[kind] for kind in LINK_NAMES] for volume in volumes.values()]
    stacks = Stacks(amounts, tuple(LINK_NAMES.values()), _LINK_COLOURS, "{:.3g}")
    panel = Panel([stacks], x=unit, rows=list(volumes), grid="", legend="right")
    return chart([panel], size=(11.0, 0.9 + 0.42 * len(volumes)), name="links")


def arrivals_by_layer(arrivals: NDArray[np.int64], experts: int) -> str:
    """Draw by layer the number of experts that move to a rank which does not hold them yet."""
    edges = np.arange(len(arrivals) + 1) - 0.5
    marks = Histogram(edges, np.full(len(arrivals), experts), FAINT, "stay"), Histogram(edges, arrivals, BLUE, "move")
    panel = Panel(marks, x="MoE layer", y="experts", y_limits=(0, experts), legend="right")
    return chart([panel], size=(11.0, 2.6), name="arrivals")


def volume_section(numbers: dict[str, Any], before: Evaluation, placed: Evaluation, context: Context) -> Section:
    """Bytes by class of link and moves between ranks, then predicted and simulated times where they are known."""
    name = context.before
    now, then = numbers["traffic"]["before"], numbers["traffic"]["placed"]
    kind = next(k for k in ("bytes_per_step", "bytes_per_token", "moves_per_token") if now[k] is not None)
    byte, size = byte_unit(numbers)
    scale, unit = (1.0, "moves") if kind == "moves_per_token" else (size, byte)
    unit += " per training step of one expert-parallel group" if kind == "bytes_per_step" else " per token, forward"
    volumes = {
        label: {link: traffic[kind][link] / scale for link in LINKS}
        for label, traffic in ((name, now), ("placed", then))
    }
    blocks: list[Block] = [Figure(link_bars(volumes, unit), _caption(kind))]
    if before.crossings or placed.crossings:
        maps = rank_maps({name: before, "placed": placed}, numbers["ranks_per_node"])
        blocks.append(Figure(maps, _MAP_CAPTION + (" Frames are nodes." if numbers["num_nodes"] > 1 else "")))
    links = LINKS if numbers["num_nodes"] > 1 else LINKS[:2]
    blocks.append(_table(now, then, name, links, kind, (byte, size)))
    missing = _missing(numbers, context)
    if missing:
        blocks.append(Note(missing))
    if now["predicted_ms_per_step"] is not None:
        blocks.append(_predicted(now["predicted_ms_per_step"], then["predicted_ms_per_step"], name))
    if context.simulations:
        blocks.append(_simulated(context))
    return Section(_title(now[kind], then[kind], numbers["num_nodes"]), blocks)


def _title(before: dict[str, float], placed: dict[str, float], num_nodes: int) -> str:
    link, where = ("other_node", "between nodes") if num_nodes > 1 else ("same_node", "between ranks")
    if not before[link]:
        return f"Nothing travels {where}"
    change = placed[link] / before[link] - 1
    if abs(change) < 0.005:
        return f"As much travels {where} as before"
    return f"{abs(change):.0%} {'less' if change < 0 else 'more'} travels {where}"


def _caption(kind: str) -> str:
    if kind == "bytes_per_step":
        return (
            "What the dispatch of tokens sends by class of link in one training step, forward and backward pass, all "
            "layers and ranks of one expert-parallel group."
        )
    return "What the dispatch of one token sends by class of link in the forward pass, over all layers."


def _table(
    before: dict[str, Any], placed: dict[str, Any], name: str, links: Sequence[str], kind: str, unit: tuple[str, float]
) -> Table:
    columns = ["class of link", f"moves of a token, {name}", "placed"]
    per = "step" if kind == "bytes_per_step" else "token"
    if kind != "moves_per_token":
        columns += [f"{unit[0]} per {per}, {name}", "placed"]
    rows = []
    for link in links:
        cells = [LINK_NAMES[link], *(f"{traffic['moves_per_token'][link]:.3f}" for traffic in (before, placed))]
        if kind != "moves_per_token":
            cells += [f"{traffic[kind][link] / unit[1]:,.3g}" for traffic in (before, placed)]
        rows.append(cells)
    both = " Bytes per step: forward and backward pass." if kind == "bytes_per_step" else ""
    return Table(columns, rows, f"Moves: forward pass.{both}")


def _missing(numbers: dict[str, Any], context: Context) -> str:
    if context.volume.token_bytes is None:
        return "The trace's header does not say how wide a token is (hidden, element_bytes), so that bytes are unknown."
    if context.volume.tokens_per_step is None:
        return "The trace does not say which step a token belongs to, so that bytes per step are unknown."
    if numbers["traffic"]["before"]["predicted_ms_per_step"] is None and not context.simulations:
        return (
            "No times: give --cost intra=900Gbps,inter=100Gbps,latency=5us for a prediction, or --results for what "
            "netsim found."
        )
    return ""


def _predicted(before: float, placed: float, name: str) -> Table:
    change = f"{placed / before - 1:+.0%}".replace("-0%", "0%").replace("+0%", "0%") if before else "0%"
    return Table(
        ("predicted by alpha-beta, not measured", name, "placed", "change"),
        [("dispatch of tokens per training step", f"{before:,.3f} ms", f"{placed:,.3f} ms", change)],
        "Latency per message and bytes over the given rates; the busiest link of any rank sets the pace, nothing "
        "contends inside the network, and no compute overlaps. A simulation (netsim) says more.",
    )


def _simulated(context: Context) -> Table:
    rows = [
        (
            f"{run.source}: {run.transport}",
            f"{run.completion_ms:,.3f} ms",
            f"{run.bound_ms:,.3f} ms",
            f"{run.completion_ms / run.bound_ms - 1:+.1%}" if run.bound_ms else "-",
            str(run.seeds),
        )
        for run in context.simulations
    ]
    return Table(
        ("simulated by netsim", "completion", "bound", "above bound", "seeds"),
        rows,
        "Mean completion of the whole scenario in each results file; which placement it was made for is in its trace.",
    )


def moving_section(num_layers: int, moving: Moving, unit: tuple[str, float], steps: float | None) -> Section:
    """Numbers of experts and bytes that move, and the new rank of each moving expert.

    `steps` save as many bytes as the move sends; None if unknown or never. The unit of bytes comes with its size.
    """
    counts = np.bincount([layer for layer, _, _ in moving.arrivals], minlength=num_layers)
    share = len(moving.arrivals) / moving.experts
    of = f"against the {moving.against} placement, ranks renamed where that is free"
    facts = [("Experts that move", f"{len(moving.arrivals):,}", f"{share:.0%} of {moving.experts:,}; {of}")]
    if moving.total_bytes is not None:
        size = f"{moving.expert_parameters:,} parameters x {moving.parameter_bytes} B each"
        facts.append(("Bytes to move", f"{moving.total_bytes / unit[1]:,.3g} {unit[0]}", size))
        if steps is not None:
            facts.append(
                ("Steps to pay back", f"{steps:,.3g}", "bytes to move / bytes that a step saves between ranks")
            )
    else:
        facts.append(("Bytes a parameter", f"{moving.parameter_bytes} B", "give --expert-parameters for the sum"))
    text = (
        "What travels with an expert: its weights, both moments of the optimiser, and the fp32 master copy where the "
        "weights are narrower."
    )
    if not moving.arrivals:
        return Section("No expert has to move", (Facts(facts),), text)
    picture = Figure(arrivals_by_layer(counts, moving.experts // num_layers), "Experts of each layer that change rank.")
    title = "Most experts have to move" if share > 0.5 else f"{share:.0%} of the experts have to move"
    if len(moving.arrivals) > _MOST_LISTED:
        text += " The numbers beside this page (.report.json) list every move."
        return Section(title, (Facts(facts), picture), text)
    rows = [
        (
            f"layer {layer}",
            ", ".join(f"{expert}→{rank}" for at, expert, rank in moving.arrivals if at == layer) or "none",
        )
        for layer in range(num_layers)
    ]
    table = Table(("layer", "expert → rank that it comes to"), rows, words=True)
    return Section(title, (Facts(facts), picture, table), text)
