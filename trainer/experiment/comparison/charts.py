"""The charts of a comparison: quality against the cost of a sample, paths and steps, samples side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.chart import Panel, bent, chart
from netsim.foundation.marks import (
    COLOURS,
    DASHED,
    FAINT,
    GREY,
    INK,
    MARKERS,
    SOLID,
    Band,
    Dots,
    Level,
    Line,
    Mark,
    Picture,
    Rows,
)
from trainer.experiment.comparison.measurement import PER_CLASS, TRAJECTORIES, drawn
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry, SampleCost, spread
from trainer.observe.units import scaled

Array = NDArray[np.floating]
NOTHING = "–"
"""Cell of a network that lacks the figure."""
LEAST = 1e-6
"""Drawn instead of a distance of 0, which a logarithmic axis cannot show."""
ABREAST = 5
"""Networks that share a row of samples at most."""


@dataclass(frozen=True)
class CostAxis:
    """One measure of the cost of a sample.

    Attributes:
        name: one or two words, in the plural.
        label: label of an axis, with the unit.
        figure: cost of a sample; None if unknown.
    """

    name: str
    label: str
    figure: Callable[[SampleCost], float | None]
    written: Callable[[float], str]

    def of(self, entry: Entry, evaluations: int) -> float | None:
        """The figure of a network's samples at so many evaluations of the field; None if unknown."""
        if self is CALLS:  # which comparisons without costs have too
            return float(evaluations)
        cost = entry.cost(evaluations)
        return None if cost is None else self.figure(cost)


def counted(value: float) -> str:
    """A count with a decimal prefix, such as 1.21 M."""
    return scaled(value, "").strip().replace(" ", "\N{NO-BREAK SPACE}")


def microseconds(value: float) -> str:
    """A number of microseconds, such as 12.1 or 1,210."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


CALLS = CostAxis("network calls", "network calls of a sample", lambda cost: float(cost.evaluations), "{:.0f}".format)


def axes(comparison: Comparison) -> tuple[CostAxis, ...]:
    """Returns all measures of cost, known or not; times are those of the fabric's first transport."""
    transport = next(iter(transports(comparison)), None)
    drawn_by = "microseconds until a sample is drawn" + ("" if transport is None else f", with {transport}")
    return (
        CALLS,
        CostAxis("multiply-adds", "multiply-adds of a sample", lambda cost: cost.multiply_adds, counted),
        CostAxis("bytes", "bytes that ranks send each other, for a sample", lambda cost: cost.sent_bytes, counted),
        CostAxis("microseconds", drawn_by, lambda cost: cost.total_us(transport), microseconds),
    )


def transports(comparison: Comparison) -> list[str]:
    """Transports of the fabric in its order; empty where nothing is sent."""
    names = (name for entry in comparison.entries for cost in entry.costs for name in cost.network_us)
    return list(dict.fromkeys(names))


def figures(comparison: Comparison, axis: CostAxis) -> list[float]:
    """Every known value of a measure of cost."""
    costs = (axis.of(entry, at) for entry in comparison.entries for at in entry.quality(comparison.measure))
    return [cost for cost in costs if cost is not None]


def quality_chart(comparison: Comparison, axis: CostAxis = CALLS) -> str:
    """Quality against the cost of a sample: a line for each network, its spread over the seeds, the floor.

    Samples of cost 0 are drawn at the left edge.
    """
    known = figures(comparison, axis)
    least = min(cost for cost in known if cost > 0)
    edge = least / 4
    mean, low, high = (max(value, LEAST) for value in spread(comparison.floor))
    marks: list[Mark] = [Level(low, colour=FAINT, to=high), Level(mean, "two sets of real samples")]
    for number, entry in enumerate(comparison.entries):
        points = [
            (cost or edge, *spread([max(value, LEAST) for value in values]))
            for at, values in entry.quality(comparison.measure).items()
            if (cost := axis.of(entry, at)) is not None
        ]
        if points:
            x, means, lows, highs = zip(*points, strict=True)
            dash = DASHED if number // len(COLOURS) % 2 else SOLID
            marks.append(Band(x, lows, highs, colour_of(number)))
            marks.append(Line(x, means, colour_of(number), entry.name, dash, MARKERS[number % len(MARKERS)]))
    ticks = {cost: _short(cost) for cost in _round_numbers(least, max(known))}
    if axis is CALLS:
        ticks = {float(number): str(number) for number in comparison.evaluations}
    if min(known) == 0:
        ticks[edge] = "0"
    panel = Panel(marks, x=axis.label, y=QUALITY[comparison.measure], log="xy", x_ticks=ticks, legend="right")
    return chart([panel], size=(11.0, max(4.8, 1.6 + 0.26 * len(comparison.entries))), name=axis.name)


def colour_of(number: int) -> str:
    """Colour of the network with a number from 0."""
    return COLOURS[number % len(COLOURS)]


def _short(value: float) -> str:
    """A round number with a decimal prefix, such as 3 k."""
    if value < 1000:
        return f"{value:g}"
    digits, prefix = scaled(value, "").split()
    return f"{float(digits):g} {prefix}"


def _round_numbers(low: float, high: float) -> list[float]:
    """From 3 to 10 round numbers that span a range, as evenly as a logarithmic axis allows."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leads in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)):
        numbers = [lead * 10.0**power for power in powers for lead in leads if low <= lead * 10.0**power <= high]
        if len(numbers) >= 3:
            break
    return numbers


def bars(comparison: Comparison) -> str:
    """Straightness, path energy and, where compared, step time: a bar for each network, a dot for each seed."""
    entries = comparison.entries
    names = bent([entry.name for entry in entries])
    shown = [
        ("straightness of the paths", "0: straight", [entry.path_figure("straightness") for entry in entries]),
        ("path energy", "|: what their ends need", [entry.path_figure("path_energy") for entry in entries]),
        ("time of an optimiser step, ms", "", [comparison.step_times(entry) for entry in entries]),
    ]
    panels = []
    for title, note, seeds in shown:
        if title.startswith("time") and not any(seeds):
            continue
        texts = [f"{fmean(values):.3g}" if values else NOTHING for values in seeds]
        marks: list[Mark] = [Rows(seeds, texts, [colour_of(number) for number in range(len(entries))])]
        if title == "path energy":
            needed = [entry.path_figure("transport_cost") for entry in entries]
            least = [fmean(values) if values else math.nan for values in needed]
            marks.append(Dots(least, range(len(entries)), INK, size=190, marker="|"))
        panels.append(Panel(marks, title, note, rows=names, grid="x"))
    return chart(panels, size=(11.0, 1.2 + 0.34 * len(entries)), name="paths", share="y", gap=0.05)


def pictures(entries: Sequence[Entry], real: Array) -> list[str]:
    """Draws samples of few and of many evaluations, and trajectories of points in the plane, in several pictures."""
    rows = -(-len(entries) // ABREAST)
    abreast = -(-len(entries) // rows)
    side = 10.4 / max(4, abreast)
    columns = [_column(entry, real, colour_of(number)) for number, entry in enumerate(entries)]
    svgs = []
    for first in range(0, len(entries), abreast):
        some = columns[first : first + abreast]
        some += [[Panel((), bare=True)] * 3] * (max(4, abreast) - len(some))
        panels = list(zip(*some, strict=False))  # paths are shown where all networks of the row have them
        high, wide = (
            (1, 1) if real.ndim == 2 else _sheet(drawn(Path(entries[first].outcomes[0].run_dir))["few"]).shape[:2]
        )
        svgs.append(chart(*panels, size=(11.0, len(panels) * (side * high / wide + 0.5)), name=f"samples {first}"))
    return svgs


def _column(entry: Entry, real: Array, colour: str) -> list[Panel]:
    """Panels of one network, from top to bottom."""
    sets = drawn(Path(entry.outcomes[0].run_dir))
    few, many = (f"{number} evaluation{'s' * (number > 1)}" for number in map(int, sets["evaluations"]))
    (name,) = bent([entry.name], 22)
    if real.ndim > 2:
        return [
            Panel([Picture(_sheet(sets["few"]))], name, few, bare=True),
            Panel([Picture(_sheet(sets["many"]))], "", many, bare=True),
        ]
    reach = 1.25 * float(np.quantile(np.abs(real), 0.999))
    behind = Dots(real[:, 0], real[:, 1], GREY, size=4, edge="none", alpha=0.5)

    def panel(marks: Sequence[Mark], title: str, note: str, reach: float = reach) -> Panel:
        limits = -reach, reach
        return Panel(
            (behind, *marks), title, note, x_limits=limits, y_limits=limits, bare=True, equal=True, pixels=True
        )

    def cloud(points: Array) -> list[Mark]:
        return [Dots(points[:, 0], points[:, 1], colour, size=4, alpha=0.65, edge="none")]

    panels = [panel(cloud(sets["few"]), name, few), panel(cloud(sets["many"]), "", many)]
    if TRAJECTORIES in sets:
        states = sets[TRAJECTORIES]
        marks: list[Mark] = [Line(states[:, :, 0], states[:, :, 1], colour, width=0.7, alpha=0.75)]
        for state, look in ((states[0], GREY), (states[-1], INK)):
            marks.append(Dots(state[:, 0], state[:, 1], look, size=6, edge="none"))
        panels.append(panel(marks, "", f"paths, {many}", max(reach, 1.02 * float(np.abs(states[0]).max()))))
    return panels


def _sheet(images: Array) -> Array:
    """Images [N, C, H, W] from -1 to 1 below and beside each other, [H, W] or [H, W, 3] from 0 to 1."""
    cells = np.pad(np.clip((images + 1) / 2, 0, 1), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=1.0)
    columns = len(cells) // PER_CLASS
    lines = [np.concatenate(list(line), axis=-1) for line in cells.reshape(PER_CLASS, columns, *cells.shape[1:])]
    canvas = np.concatenate(lines, axis=-2).transpose(1, 2, 0)
    return canvas.squeeze(-1) if canvas.shape[-1] == 1 else canvas
