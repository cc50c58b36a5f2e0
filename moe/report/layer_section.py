"""The section of the report that goes through the layers: cost, moves and busiest rank, and where most is saved.

Shape legend: L MoE layers.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.report.drawing import BEFORE, FULL_WIDTH, PLACED, Drawing
from moe.report.page import Block, Figure, Section, Table
from moe.report.plot import Panel, Scale

_STRIP, _GAP = 118, 44
_FEW, _LISTED = 8, 3


def layer_section(before: Evaluation, placed: Evaluation, unit: str, name: str, first: int) -> Section:
    """Compose the section.

    Args:
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        unit: Unit of cost.
        name: Name of the placement in use.
        first: First layer that has a cost.

    Returns:
        A strip over the layers, and a table of those where most and least is saved (of all where they are few).
    """
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
    """Draw cost, moves and busiest rank over the layers.

    Args:
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        unit: Unit of cost.
        name: Name of the placement in use.
        first: First layer that has a cost.

    Returns:
        SVG markup.
    """
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
