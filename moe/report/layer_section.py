"""The sections of the report that go through the layers: cost, moves and busiest rank of each, and all loads.

Shape legend: L MoE layers, G ranks of one expert-parallel group.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import BLUE, DEVIATIONS, GREY, INK, RED, SOLID, HeatMap, Histogram, Level, Line
from netsim.foundation.page import Block, Figure, Section, Table

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
    rows: list[tuple[str, int, NDArray[np.float64], NDArray[np.float64], float]] = [
        (f"cost per token [{unit}]", first, before.cost_by_layer, placed.cost_by_layer, 0.0)
    ]
    if not _cost_is_moves(before, placed):
        rows.append(("moves of a token to other ranks", first, _crossings(before), _crossings(placed), 0.0))
    rows.append(("busiest rank / mean load of a rank", 0, before.imbalance, placed.imbalance, 1.0))

    def panel(label: str, start: int, then: NDArray[np.float64], now: NDArray[np.float64], least: float) -> Panel:
        lines = [
            Line(range(start, len(of)), of[start:], colour, who, marker="o")
            for of, colour, who in ((then, GREY, name), (now, BLUE, "placed"))
        ]
        top = max(float(max(then.max(), now.max())), least + 1e-9)
        return Panel(lines, label, y_limits=(least, least + 1.06 * (top - least)))

    panels = [panel(*row) for row in rows]
    panels[0] = replace(panels[0], legend="right")
    panels[-1] = replace(panels[-1], x="MoE layer", x_ticks=_every(len(before.cost_by_layer)))
    return chart(*([one] for one in panels), size=(11.0, 0.4 + 1.75 * len(rows)), name="layers", share="x")


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
    """Whether every move costs 1, so that costs and moves are equal and one is enough."""
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
    shares = [100 * np.histogram(loads, edges)[0] / len(loads) for loads in relative]
    marks = [
        Histogram(edges, shares[0], GREY, name),
        Histogram(edges, shares[1], BLUE, "placed", fill=False),
        Level(1.0, colour=INK, upright=True),
    ]
    if cap is not None and cap <= reach:
        marks += [Level(cap, f"cap {cap:.4g}", RED, SOLID, upright=True)]
    shown = Panel(marks, x="load of a rank / mean of its layer", y="share of the ranks, %", legend="best")
    return chart([shown], size=(11.0, 2.9), name="loads")


def load_maps(before: NDArray[np.float64], placed: NDArray[np.float64], *, name: str = "contiguous") -> str:
    """Draw the load of every rank in every layer, [L, G], relative to the mean of the layer, before and after."""
    relative = [_relative(loads) for loads in (before, placed)]
    reach = max(float(max(np.abs(ratio - 1).max() for ratio in relative)), 0.25)
    layers, ranks = placed.shape
    form = "{:.2f}" if layers * ranks <= _MOST_NUMBERED else ""
    panels = [
        Panel(
            [HeatMap(ratio, DEVIATIONS, 1 - reach, 1 + reach, form)], label, f"at most {ratio.max():.2f} of the mean",
            x="rank of the group", y="MoE layer" if label == name else "", grid="",
            x_ticks=_every(ranks),
            y_ticks=_every(layers),
        )
        for ratio, label in zip(relative, (name, "placed"), strict=True)
    ]  # fmt: skip
    texts = {load: f"{load:.2g}" for load in (max(1 - reach, 0.0), 1.0, 1 + reach)}  # no load is below 0
    key = Key("load / mean", DEVIATIONS, 1 - reach, 1 + reach, texts)
    return chart(panels, size=(11.0, min(max(0.28 * layers, 0.9), 5.5) + 1.1), name="ranks", gap=0.04, key=key)


def _every(count: int) -> dict[float, str]:
    """Returns the tick labels of an axis from 0 to `count` - 1: at most 16 numbers, evenly spaced."""
    return {float(number): str(number) for number in range(0, count, -(-count // 16))}


def _relative(loads: NDArray[np.float64]) -> NDArray[np.float64]:
    return loads / np.maximum(loads.mean(axis=1, keepdims=True), 1e-9)
