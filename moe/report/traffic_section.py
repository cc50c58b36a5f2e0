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
from moe.report.drawing import (
    ALARM,
    AMOUNTS,
    BEFORE,
    FULL_WIDTH,
    HATCH,
    INK,
    PAPER,
    PLACED,
    RULE,
    SOFT,
    Drawing,
    Panel,
    Scale,
    draw_scale,
    is_dark,
    name_column,
    png,
    text_width,
)
from moe.report.summary import LINKS, byte_unit
from netsim.foundation.page import Block, Facts, Figure, Note, Section, Table

_MOST_NUMBERED = 8  # ranks whose cells have room for numbers
_SIDE, _TOP = 420, 42
_BAR, _PITCH = 26, 40
_MOST_NUMBERS = 64
_MAP_CAPTION = (
    "Who sends to whom: moves of a token from rank to rank in the forward pass, over all layers, darker for more. What "
    "stays on its rank is left grey."
)
_MOST_LISTED = 400


def rank_maps(traffic: Mapping[str, Evaluation], ranks_per_node: int) -> str:
    """Draw for each of two placements the moves of a token from rank to rank, all layers and exchanges together.

    All maps share one scale; the diagonal, what stays on its rank, is left blank; nodes are framed.
    """
    sent = {name: _sent(evaluation) for name, evaluation in traffic.items()}
    reach = max(float(max(moves.max() for moves in sent.values())), 1e-30)
    drawing = Drawing(FULL_WIDTH, _TOP + _SIDE + 44)
    for index, (name, moves) in enumerate(sent.items()):
        left = 40 + index * (_SIDE + 56)
        between = float((moves * traffic[name].off_node).sum())
        text = f"{moves.sum():.3g} moves a token to other ranks"
        text += f", {between:.3g} of them to other nodes" if traffic[name].off_node.any() else ""
        drawing.text(left, 14, name, bold=True, size=14)
        drawing.text(left, 32, text, colour=SOFT)
        _map(drawing, left, moves / reach, moves, ranks_per_node)
    drawing.text(16, _TOP + _SIDE / 2, "from rank", anchor="middle", colour=SOFT, turned=True)
    labels = [(0.0, "0"), (0.5, f"{reach / 2:.2g}"), (1.0, f"{reach:.2g}")]
    draw_scale(drawing, FULL_WIDTH - 52, _TOP + 16, 160, AMOUNTS, labels, "moves")
    return drawing.markup()


def _sent(evaluation: Evaluation) -> NDArray[np.float64]:
    moves = evaluation.moves.sum(axis=(0, 1)) / evaluation.num_tokens
    return moves * (1 - np.eye(len(moves)))


def _map(
    drawing: Drawing, left: float, shares: NDArray[np.float64], moves: NDArray[np.float64], ranks_per_node: int
) -> None:
    ranks = len(shares)
    cell = _SIDE / ranks
    drawing.image(left, _TOP, _SIDE, _SIDE, png(shares, AMOUNTS))
    for rank in range(ranks):
        drawing.rect(left + rank * cell, _TOP + rank * cell, cell, cell, RULE)
    if ranks <= _MOST_NUMBERED:
        for (start, end), share in np.ndenumerate(shares):
            if start != end:
                colour = PAPER if is_dark(AMOUNTS, float(share)) else INK
                x, y = left + (end + 0.5) * cell, _TOP + (start + 0.5) * cell + 4.5
                drawing.text(x, y, f"{moves[start, end]:.2g}", anchor="middle", size=12, colour=colour)
    for first in range(0, ranks, ranks_per_node) if ranks_per_node < ranks else ():
        corner, size = first * cell, ranks_per_node * cell
        drawing.rect(left + corner, _TOP + corner, size, size, "none", stroke=ALARM)
    drawing.rect(left, _TOP, _SIDE, _SIDE, "none", stroke=SOFT)
    step = -(-ranks // 16)
    for rank in range(0, ranks, step):
        middle = (rank + 0.5) * cell
        drawing.text(left + middle, _TOP + _SIDE + 16, str(rank), anchor="middle", size=11, colour=SOFT)
        drawing.text(left - 5, _TOP + middle + 4, str(rank), anchor="end", size=11, colour=SOFT)
    drawing.text(left + _SIDE / 2, _TOP + _SIDE + 36, "to rank", anchor="middle", colour=SOFT)


LINK_NAMES = {"same_rank": "stays on its rank", "same_node": "inside the node", "other_node": "between nodes"}
_LINK_COLOURS = {"same_rank": RULE, "same_node": "#7fb3d5", "other_node": ALARM}


def cost_bars(costs: Mapping[str, float], unit: str) -> str:
    """Compare costs per token from top to bottom; `placed` and `lower bound` (hatched) have their own looks."""
    looks = {"placed": PLACED, "lower bound": HATCH}
    height = 14 + _PITCH * len(costs)
    drawing = Drawing(FULL_WIDTH, height + 46)
    left = name_column(list(costs))
    panel = Panel(drawing, Scale(0, max(*costs.values(), 1e-9), left, FULL_WIDTH - 70), Scale(0, 1, height, 0))
    for row, (name, cost) in enumerate(costs.items()):
        top = 8 + row * _PITCH
        drawing.text(left - 10, top + 18, name, anchor="end")
        stroke = INK if name == "lower bound" else ""
        drawing.rect(left, top, panel.x(cost) - left, _BAR, looks.get(name, BEFORE), stroke=stroke)
        drawing.text(panel.x(cost) + 7, top + 18, f"{cost:.3g}", bold=True)
    panel.mark_x(f"cost per token [{unit}]")
    return drawing.markup()


def link_bars(volumes: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Stack what stays, what goes inside a node and what goes between nodes: volumes by placement and class of link."""
    height = 30 + _PITCH * len(volumes)
    drawing = Drawing(FULL_WIDTH, height + 46)
    left = name_column(list(volumes))
    reach = max(max(sum(volume.values()) for volume in volumes.values()), 1e-30)
    panel = Panel(drawing, Scale(0, reach, left, FULL_WIDTH - 20), Scale(0, 1, height, 0))
    for row, (name, volume) in enumerate(volumes.items()):
        top, end = 26 + row * _PITCH, 0.0
        drawing.text(left - 10, top + 18, name, anchor="end")
        for kind, amount in volume.items():
            begin, stop = panel.x(end), panel.x(end + amount)
            title = f"{name}, {LINK_NAMES[kind]}: {amount:.4g}"
            if amount:
                drawing.rect(begin, top, stop - begin, _BAR, _LINK_COLOURS[kind], title=title)
            label = f"{amount:.3g}"
            if stop - begin > text_width(label) + 8:
                colour = "#ffffff" if kind == "other_node" else INK
                drawing.text((begin + stop) / 2, top + 18, label, anchor="middle", colour=colour)
            end += amount
    kinds = [kind for kind in LINK_NAMES if any(volume[kind] for volume in volumes.values())]
    drawing.legend(FULL_WIDTH - 20, 14, [(LINK_NAMES[kind], _LINK_COLOURS[kind]) for kind in kinds])
    panel.mark_x(unit)
    return drawing.markup()


def arrivals_by_layer(arrivals: NDArray[np.int64], experts: int) -> str:
    """Draw by layer the number of experts that move to a rank which does not hold them yet."""
    drawing = Drawing(FULL_WIDTH, 240)
    layers = len(arrivals)
    panel = Panel(drawing, Scale(-0.5, layers - 0.5, 50, FULL_WIDTH - 20), Scale(0, experts, 196, 40))
    panel.mark_y("experts", whole=True)
    width = min(0.74 * (panel.x(1) - panel.x(0)), 46)
    for layer, moving in enumerate(arrivals.tolist()):
        left = panel.x(layer) - width / 2
        drawing.rect(left, panel.y(experts), width, panel.y(moving) - panel.y(experts), _LINK_COLOURS["same_rank"])
        title = f"layer {layer}: {moving} of {experts} move"
        drawing.rect(left, panel.y(moving), width, panel.y(0) - panel.y(moving), PLACED, title=title)
        if layers <= _MOST_NUMBERS and width > text_width(str(moving), 11) - 4:
            inside = moving > experts / 8
            colour = "#ffffff" if inside else SOFT
            drawing.text(
                panel.x(layer),
                panel.y(moving) + (13 if inside else -4),
                str(moving),
                anchor="middle",
                size=11,
                colour=colour,
            )
    panel.mark_x("MoE layer", whole=True)
    drawing.legend(FULL_WIDTH - 20, 16, [("stay", _LINK_COLOURS["same_rank"]), ("move", PLACED)])
    return drawing.markup()


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
