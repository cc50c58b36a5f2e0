"""The sections of the report that go through the layers: cost, moves and busiest rank of each, and all loads.

Shape legend: L MoE layers, G ranks of one expert-parallel group.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.report.drawing import (
    ALARM,
    BEFORE,
    DEVIATIONS,
    FULL_WIDTH,
    INK,
    PAPER,
    PLACED,
    SOFT,
    Drawing,
    Panel,
    Scale,
    draw_scale,
    is_dark,
    percent,
    png,
)
from netsim.foundation.page import Block, Figure, Section, Table

_STRIP, _GAP = 118, 44
_FEW, _LISTED = 8, 3
_BINS = 40
_MOST_NUMBERED = 128
_ROUNDING = 1e-6


def layer_section(before: Evaluation, placed: Evaluation, unit: str, name: str, first: int) -> Section:
    """A strip over the layers from `first` on, which has a cost, and a table of those where most and least is saved."""
    saved = before.cost_by_layer - placed.cost_by_layer
    blocks: list[Block] = [
        Figure(
            layer_strips(before, placed, unit, name=name, first=first),
            "Layer by layer: what a token costs, how often it moves to another rank, and how much the busiest rank "
            "computes (1 is perfect balance). The busiest rank sets the pace of its layer.",
        )
    ]
    order = [int(layer) for layer in np.argsort(-saved[first:], kind="stable") + first]
    caption = "Layers in the order of what they save."
    if len(order) > _FEW:
        order = order[:_LISTED] + order[-_LISTED:]
        caption = f"The {_LISTED} layers where most is saved and the {_LISTED} where least is; numbers of all layers "
        caption += "are in the file beside this page (.report.json)."
    blocks.append(_table(order, before, placed, name, caption))
    costs = before.cost_by_layer[first:]
    shares = np.divide(saved[first:], costs, out=np.zeros(len(costs)), where=costs > 0)
    if not len(shares) or np.ptp(shares) < 0.005:
        return Section("Every layer saves alike", blocks)
    if shares.max() <= 0:
        return Section(f"Layers cost {_share(-shares.max())} to {_share(-shares.min())} more", blocks)
    return Section(f"Layers save {_share(shares.min())} to {_share(shares.max())} of their cost", blocks)


def layer_strips(before: Evaluation, placed: Evaluation, unit: str, *, name: str, first: int) -> str:
    """Draw cost, moves and busiest rank over the layers."""
    pair = before, placed
    rows = [(f"cost per token [{unit}]", first, *(traffic.cost_by_layer for traffic in pair), 0.0)]
    if not _cost_is_moves(*pair):
        rows.append(("moves of a token to other ranks", first, *map(_crossings, pair), 0.0))
    rows.append(("busiest rank / mean load of a rank", 0, before.imbalance, placed.imbalance, 1.0))
    layers = len(before.cost_by_layer)
    drawing = Drawing(FULL_WIDTH, len(rows) * (_STRIP + _GAP) + 46)
    across = Scale(-0.5, layers - 0.5, 50, FULL_WIDTH - 20)
    for row, (label, start, then, now, floor) in enumerate(rows):
        bottom = (row + 1) * (_STRIP + _GAP) - 4
        reach = max(float(max(then.max(), now.max())), floor + 1e-9)
        panel = Panel(drawing, across, Scale(floor, floor + 1.06 * (reach - floor), bottom, bottom - _STRIP))
        panel.mark_y(label)
        for values, colour, who in ((then, BEFORE, name), (now, PLACED, "placed")):
            _line(panel, values, start, colour, f"{who}, {label}")
        if row == len(rows) - 1:
            panel.mark_x("MoE layer", whole=True)
    drawing.legend(FULL_WIDTH - 20, 16, [(name, BEFORE), ("placed", PLACED)])
    return drawing.markup()


def _line(panel: Panel, values: NDArray[np.float64], start: int, colour: str, label: str) -> None:
    places = [(panel.x(layer), panel.y(float(value))) for layer, value in enumerate(values)][start:]
    panel.drawing.line(places, colour, width=1.8)
    radius = 3.4 if len(places) <= 64 else 2
    for layer, (x, y) in enumerate(places, start):
        panel.drawing.dot(x, y, radius, colour, title=f"{label}, layer {layer}: {values[layer]:.4g}", width=0.6)


def _table(order: list[int], before: Evaluation, placed: Evaluation, name: str, caption: str) -> Table:
    pair = before, placed
    columns = ["", f"cost, {name}", "placed", "saved"]
    numbers = [[f"{traffic.cost_by_layer[layer]:.3f}" for traffic in pair] for layer in order]
    for row, layer in zip(numbers, order, strict=True):
        cost = before.cost_by_layer[layer]
        row.append(_share(1 - placed.cost_by_layer[layer] / cost) if cost else "-")
    if not _cost_is_moves(*pair):
        columns += [f"moves, {name}", "placed"]
        moves = [_crossings(traffic) for traffic in pair]
        numbers = [[*row, *(f"{of[layer]:.2f}" for of in moves)] for row, layer in zip(numbers, order, strict=True)]
    columns += [f"busiest rank, {name}", "placed"]
    loads = [traffic.imbalance for traffic in pair]
    rows = [
        (f"layer {layer}", *row, *(f"{of[layer]:.2f}" for of in loads))
        for row, layer in zip(numbers, order, strict=True)
    ]
    return Table(columns, rows, caption)


def _crossings(traffic: Evaluation) -> NDArray[np.float64]:
    return traffic.moves_by_link[:, 1:].sum(axis=1)


def _cost_is_moves(*both: Evaluation) -> bool:
    """Whether every move costs 1, so that one of the two says all."""
    return all(np.allclose(traffic.cost_by_layer, _crossings(traffic)) for traffic in both)


def _share(value: float) -> str:
    return f"{value:.0%}".replace("-0%", "0%")


def load_section(before: Evaluation, placed: Evaluation, name: str, *, idle: int, cap: float | None = None) -> Section:
    """How the loads of all ranks and layers are spread, and the load of every rank in every layer.

    `idle` experts of all layers are chosen by no token; `cap` is that of the placement, as a multiple of the mean.
    """
    worst = placed.imbalance.max()
    text = (
        f"That is the worst layer; {name} {before.imbalance.max():.2f}. The mean over the layers is "
        f"{placed.imbalance.mean():.2f}; {name} {before.imbalance.mean():.2f}."
    )
    against = "" if cap is None else f", {against_cap(worst, cap)}"
    if cap is not None and against_cap(worst, cap).startswith("above"):
        text += f" {(placed.imbalance > cap).sum()} of {len(placed.imbalance)} layers are above the cap."
    if idle:
        text += f" {idle} experts of all layers are chosen by no token."
    spread = Figure(
        load_histogram(before.rank_loads, placed.rank_loads, name=name, cap=cap),
        "Loads of all ranks in all layers, relative to the mean of their layer: a narrow hill at 1 is good, and a tail "
        "to the right are the ranks that others wait for.",
    )
    maps = Figure(
        load_maps(before.rank_loads, placed.rank_loads, name=name),
        "Choices that each rank computes in each layer, relative to the mean of the layer: red ranks are waited for.",
    )
    return Section(f"The busiest rank computes {worst:.2f} times the mean{against}", (spread, maps), text)


def against_cap(worst: float, cap: float) -> str:
    """Say on which side of the cap the busiest rank of the worst layer is."""
    return f"{'above' if worst > cap * (1 + _ROUNDING) else 'within'} the cap of {cap:.4g}"


def load_histogram(
    before: NDArray[np.float64], placed: NDArray[np.float64], *, name: str = "contiguous", cap: float | None = None
) -> str:
    """Draw how often ranks have which load, [L, G], before and after; the cap is a line."""
    relative = [_relative(loads).reshape(-1) for loads in (before, placed)]
    reach = max(float(max(loads.max() for loads in relative)), 1.2)
    edges = np.linspace(0, reach, _BINS + 1)
    shares = [np.histogram(loads, edges)[0] / len(loads) for loads in relative]
    drawing = Drawing(FULL_WIDTH, 250)
    highest = max(float(max(share.max() for share in shares)), 1e-9)
    panel = Panel(drawing, Scale(0, reach, 56, FULL_WIDTH - 20), Scale(0, 1.05 * highest, 196, 42))
    panel.mark_y("share of the ranks", form=percent, most=4)
    places = [panel.x(float(edge)) for edge in edges]
    for (begin, end), share in zip(pairwise(places), shares[0], strict=True):
        drawing.rect(begin + 0.5, panel.y(share), end - begin - 1, panel.y(0) - panel.y(share), BEFORE)
    steps = [(places[0], panel.y(0))]
    for (begin, end), share in zip(pairwise(places), shares[1], strict=True):
        steps += [(begin, panel.y(share)), (end, panel.y(share))]
    drawing.line([*steps, (places[-1], panel.y(0))], PLACED, width=2)
    drawing.line([(panel.x(1), panel.y.start), (panel.x(1), panel.y.end)], INK, dash="2 3")
    if cap is not None and cap <= reach:
        drawing.line([(panel.x(cap), panel.y.start), (panel.x(cap), panel.y.end)], ALARM, width=1.4)
        drawing.text(panel.x(cap) + 5, panel.y.end + 4, f"cap {cap:.4g}", size=12, colour=ALARM)
    panel.mark_x("load of a rank / mean of its layer")
    drawing.legend(FULL_WIDTH - 20, 16, [(name, BEFORE), ("placed", PLACED)])
    return drawing.markup()


def load_maps(before: NDArray[np.float64], placed: NDArray[np.float64], *, name: str = "contiguous") -> str:
    """Draw the load of every rank in every layer, [L, G], relative to the mean of the layer, before and after."""
    relative = [_relative(loads) for loads in (before, placed)]
    reach = max(float(max(np.abs(ratio - 1).max() for ratio in relative)), 0.25)
    layers, ranks = placed.shape
    width, height, top = 430, min(max(20 * layers, 60), 440), 36
    drawing = Drawing(FULL_WIDTH, top + height + 46)
    for index, (ratio, label) in enumerate(zip(relative, (name, "placed"), strict=True)):
        left = 46 + index * (width + 36)
        drawing.text(left, 22, f"{label}: at most {ratio.max():.2f} of the mean", size=13)
        drawing.image(left, top, width, height, png((ratio - 1 + reach) / (2 * reach), DEVIATIONS))
        if layers * ranks <= _MOST_NUMBERED:
            _number(drawing, ratio, left, top, width / ranks, height / layers, reach)
        for rank in range(0, ranks, -(-ranks // 16)):
            x = left + (rank + 0.5) * width / ranks
            drawing.text(x, top + height + 16, str(rank), anchor="middle", size=11, colour=SOFT)
        drawing.text(left + width / 2, top + height + 36, "rank of the group", anchor="middle", colour=SOFT)
        for layer in range(0, layers, -(-layers // 16)):
            y = top + (layer + 0.5) * height / layers + 4
            drawing.text(left - 5, y, str(layer), anchor="end", size=11, colour=SOFT)
    drawing.text(14, top + height / 2, "MoE layer", anchor="middle", colour=SOFT, turned=True)
    least = max(1 - reach, 0.0)  # no load is below 0, although the colours go on
    lowest, span = (least - 1 + reach) / (2 * reach), 1 + reach - least
    labels = [(0.0, f"{least:.2g}"), ((1 - least) / span, "1"), (1.0, f"{1 + reach:.2g}")]
    draw_scale(
        drawing, FULL_WIDTH - 50, top, min(height, 160), DEVIATIONS, labels, "load", lambda s: lowest + s * (1 - lowest)
    )
    return drawing.markup()


def _relative(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    return loads / np.maximum(loads.mean(axis=1, keepdims=True), 1e-9)


def _number(
    drawing: Drawing, ratio: NDArray[np.float64], left: float, top: float, width: float, height: float, reach: float
) -> None:
    for (layer, rank), value in np.ndenumerate(ratio):
        colour = PAPER if is_dark(DEVIATIONS, float((value - 1 + reach) / (2 * reach))) else INK
        x, y = left + (rank + 0.5) * width, top + (layer + 0.5) * height + 4
        drawing.text(x, y, f"{value:.2f}", anchor="middle", size=11, colour=colour)
