"""The charts of a comparison, as SVG that is the same for the same figures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

from moe.report.figures import INK, STYLE, to_svg
from trainer.experiment.comparison.results import QUALITY, Comparison, Entry, SampleCost, spread
from trainer.observe.units import scaled


@dataclass(frozen=True)
class CostAxis:
    """One measure of costs.

    Attributes:
        name: in a word or two, in the plural.
        label: of an axis, with the unit.
        figure: of a sample; None if unknown.
    """

    name: str
    label: str
    figure: Callable[[SampleCost], float | None]
    written: Callable[[float], str]

    def of(self, entry: Entry, evaluations: int) -> float | None:
        """The figure of a network's samples at so many evaluations of the field; None if unknown."""
        cost = entry.cost(evaluations)
        return None if cost is None else self.figure(cost)


@dataclass(frozen=True)
class CallAxis(CostAxis):
    """Calls of the network, which are known of comparisons without costs too."""

    def of(self, entry: Entry, evaluations: int) -> float | None:
        del entry
        return float(evaluations)


def counted(value: float) -> str:
    """A count with a decimal prefix, such as 1.21 M."""
    return scaled(value, "").strip().replace(" ", "\N{NO-BREAK SPACE}")


def microseconds(value: float) -> str:
    """A number of microseconds, such as 12.1 or 1,210."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


CALLS = CallAxis("network calls", "network calls of a sample", lambda cost: float(cost.evaluations), "{:.0f}".format)


def axes(comparison: Comparison) -> tuple[CostAxis, ...]:
    """The measures, those unknown of every network included; time is that of the first transport of the fabric."""
    transport = next(iter(transports(comparison)), None)
    by = "" if transport is None else f", with {transport}"
    return (
        CALLS,
        CostAxis("multiply-adds", "multiply-adds of a sample", lambda cost: _float(cost.multiply_adds), counted),
        CostAxis("bytes", "bytes that ranks send each other, for a sample", lambda cost: cost.sent_bytes, counted),
        CostAxis(
            "microseconds",
            f"microseconds until a sample is drawn{by}",
            lambda cost: cost.total_us(transport),
            microseconds,
        ),
    )


def transports(comparison: Comparison) -> list[str]:
    """Transports of the fabric in its order; empty where nothing is sent."""
    names = (name for entry in comparison.entries for cost in entry.costs for name in cost.network_us)
    return list(dict.fromkeys(names))


def figures(comparison: Comparison, axis: CostAxis) -> list[float]:
    """Every figure of a measure that is known."""
    return [
        figure
        for entry in comparison.entries
        for number in entry.quality(comparison.measure)
        if (figure := axis.of(entry, number)) is not None
    ]


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#1c2733", "#8c6d31", "#6a51a3", "#9e1b4a"),
)
"""Those of Okabe and Ito, which colour-blind readers can distinguish, without yellow, and four darker ones."""
MARKERS, DASHES = "osD^vPX", ("solid", (0, (4, 1.5)))
FLOOR, SOFT, GRID = "#e6eaee", "#5b6875", "#eef1f4"
LABEL_POINTS = 12.5
NOTHING = "–"
"""Stands where a network has no such figure."""
LEAST = 1e-6
"""What is drawn of a distance that is 0."""


def style(number: int) -> tuple[str, str, object]:
    """Colour, marker and dashes of the network with a number from 0."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)], DASHES[number // len(COLOURS) % len(DASHES)]


def quality_chart(comparison: Comparison, axis: CostAxis = CALLS) -> str:
    """Draws quality against the cost of a sample: a line for each network, its spread over the seeds, the floor.

    Points whose cost on this axis is not above 0 are left out.
    """
    measure = comparison.measure
    with mpl.rc_context(STYLE):
        height = max(4.8, 1.6 + 0.26 * len(comparison.entries))
        figure = Figure(figsize=(11.0, height))
        axes = figure.add_axes((0.065, 0.62 / height, 0.71, 1 - 0.9 / height))
        axes.set_yscale("log")
        _scale(axes, comparison, axis)
        mean, low, high = (max(value, LEAST) for value in spread(comparison.floor))
        if high > low:
            axes.axhspan(low, high, color=FLOOR, linewidth=0, zorder=0)
        axes.axhline(mean, color=SOFT, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        ends = []
        for number, entry in enumerate(comparison.entries):
            colour, marker, dashes = style(number)
            points = [
                (x, *spread([max(value, LEAST) for value in values]))
                for at, values in entry.quality(measure).items()
                if (x := axis.of(entry, at)) is not None
            ]
            if not points:
                continue
            xs, means, lows, highs = (list(values) for values in zip(*points, strict=True))
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
            size = 4.5 if len(xs) > 1 else 8
            axes.plot(xs, means, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=size)
            ends.append((xs[-1], means[-1], entry.name, colour))
        _numbers(axes, comparison, axis)
        _plain_decades(axes)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom * (bottom / top) ** 0.06, top)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(axis.label)
        axes.set_ylabel(QUALITY[measure])
        ends.append((axes.get_xlim()[1], mean, "two sets of real samples", SOFT))
        _label(axes, ends)
        return to_svg(figure, salt=axis.name)


def _scale(axes: Axes, comparison: Comparison, axis: CostAxis) -> None:
    """Makes the horizontal axis logarithmic, and linear next to a cost of 0."""
    xs = figures(comparison, axis)
    if min(xs) == 0:
        axes.set_xscale("symlog", linthresh=min(x for x in xs if x > 0), linscale=0.3)
    else:
        axes.set_xscale("log")


def _numbers(axes: Axes, comparison: Comparison, axis: CostAxis) -> None:
    """Sets the limits and the numbers of the horizontal axis."""
    xs = figures(comparison, axis)
    least, most = min(x for x in xs if x > 0), max(xs)
    if axis is CALLS:
        axes.xaxis.set_major_locator(FixedLocator(comparison.evaluations))
        axes.xaxis.set_major_formatter(FixedFormatter([str(number) for number in comparison.evaluations]))
    else:
        axes.xaxis.set_major_locator(FixedLocator([0.0, *_round_numbers(least, most)]))
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.xaxis.set_minor_locator(NullLocator())
    margin = (most / least) ** 0.03 if most > least else 2.0
    axes.set_xlim(0.0 if min(xs) == 0 else least / margin**2, most * margin)


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


def _plain_decades(axes: Axes) -> None:
    """Numbers such as 0.2 and 1, where a logarithmic axis would write powers."""
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if top / bottom < 1e3 else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names lines at their ends, on the right of the axes, each at least a line of text from the next."""
    figure = axes.figure
    box = axes.get_window_extent()
    points = 72 / figure.dpi
    left, right = box.x0 * points, box.x1 * points
    places = [axes.transData.transform((x, y)) * points for x, y, _, _ in ends]
    marked = [(float(x), float(y), name, colour) for (x, y), (_, _, name, colour) in zip(places, ends, strict=True)]
    marked.sort(key=lambda one: one[1])
    heights = _apart([one[1] for one in marked], LABEL_POINTS, box.y0 * points, box.y1 * points)
    for (x, y, name, colour), height in zip(marked, heights, strict=True):
        axes.annotate(
            name,
            xy=(x - left, y - box.y0 * points),
            xycoords="axes points",
            xytext=(right - left + 26, height - box.y0 * points),
            textcoords="axes points",
            color=colour,
            va="center",
            weight="normal" if colour == SOFT else "bold",
            fontsize=9.5,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "relpos": (0.0, 0.5),
                "shrinkA": 2,
                "shrinkB": 3,
            },
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising heights near those wanted, rising too, at least a gap apart and between two bounds if there is room.

    Runs of neighbours that would overlap are centred on the mean of what they want.
    """
    groups: list[list[float]] = []
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and _first(groups[-1], gap, low, high) < _last(groups[-2], gap, low, high) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_first(group, gap, low, high) + gap * place for group in groups for place in range(len(group))]


def _first(group: Sequence[float], gap: float, low: float, high: float) -> float:
    extent = gap * (len(group) - 1)
    return max(low, min(sum(group) / len(group) - extent / 2, high - extent))


def _last(group: Sequence[float], gap: float, low: float, high: float) -> float:
    return _first(group, gap, low, high) + gap * (len(group) - 1)


def bars(comparison: Comparison) -> str:
    """Draws straightness, path energy and, where compared, step time: a bar for each network, a dot for each seed."""
    entries = comparison.entries
    panels: list[tuple[str, Callable[[Sequence[float]], float], list[list[float]]]] = [
        ("straightness of the paths\n0: straight", fmean, [entry.path_figure("straightness") for entry in entries]),
        ("path energy\n|: what their ends need", fmean, [entry.path_figure("path_energy") for entry in entries]),
    ]
    times = [comparison.step_times(entry) for entry in entries]
    if any(times):
        panels.append(("time of an optimiser step, ms", median, times))
    needed = [entry.path_figure("transport_cost") for entry in entries]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 1.0 + 0.34 * len(entries)), layout="constrained")
        for axes, (title, middle, seeds) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
            _panel(axes, middle, seeds)
            axes.set_title(title, loc="left", fontsize=10)
        first, energy, *_ = figure.axes
        costs = [fmean(values) if values else math.nan for values in needed]
        energy.scatter(costs, range(len(entries)), marker="|", s=190, color=INK, linewidth=1.6, zorder=4)
        first.set_yticks(range(len(entries)), [entry.name for entry in entries])
        first.set_ylim(len(entries) - 0.45, -0.55)
        return to_svg(figure)


def _panel(axes: Axes, middle: Callable[[Sequence[float]], float], seeds: Sequence[Sequence[float]]) -> None:
    reach = max((max(values) for values in seeds if values), default=0.0) or 1.0
    for row, values in enumerate(seeds):
        if not values:
            axes.annotate(NOTHING, (0, row), (7, 0), textcoords="offset points", va="center", fontsize=9)
            continue
        colour, _, _ = style(row)
        axes.barh(row, middle(values), color=colour, alpha=0.85, height=0.6)
        axes.scatter(values, [row] * len(values), s=11, color="white", edgecolor=INK, linewidth=0.7, zorder=3)
        axes.annotate(
            f"{middle(values):.3g}", (max(values), row), (7, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xlim(0, 1.22 * reach)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
