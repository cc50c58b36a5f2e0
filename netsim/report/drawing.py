"""Shared parts of the pictures of a comparison: style, colours by rank among the transports, bars and lines."""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from netsim.report.summary import TransportSummary, differ, extremes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2933", "#6b7680", "#e4e7eb"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.fonttype": "path",
}
_SLOWEST, _FASTEST, _OTHER, _FLOW_LEVEL = "#d55e00", "#0072b2", "#8fb8d6", "#c9ccd1"
LINE_FILLS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7f85")
LINE_DASHES: Any = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
_TIME_UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))


def new_figure(width: float, height: float, title: str) -> "Figure":
    """An empty figure of so many inches; draw it and turn it into text within matplotlib's `STYLE`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, 9 * round(width)), x=0.012, ha="left", weight="bold", size=13)
    return figure


def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an svg element, the same bytes for the same data; `name` makes its ids unique on the page."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def time_unit(largest_us: float) -> tuple[float, str]:
    """Microseconds in the unit that suits a picture, and its name."""
    return next((scale, unit) for scale, unit in _TIME_UNITS if largest_us >= scale or scale == 1)


def rounded(value: float, digits: int) -> str:
    """A positive number with so many digits, zeros at the end included."""
    return f"{value:#.{digits}g}".rstrip(".")


def behind(slower: float, faster: float) -> str:
    """How much longer one of two positive times is, such as ``20 % longer than`` or ``2.4 times as long as``."""
    if slower >= 2 * faster:
        return f"{slower / faster:.1f} times as long as"
    percent = 100 * (slower / faster - 1)
    return f"{percent:.{0 if percent >= 10 else 1}f} % longer than"


def colours(summaries: Sequence[TransportSummary]) -> list[str]:
    """A colour for each transport: the fastest and the slowest with packets stand out; flow level is grey."""
    fastest, slowest = extremes(summaries)
    ends = {fastest.name: _FASTEST, slowest.name: _SLOWEST} if differ(summaries) else {}
    return [_FLOW_LEVEL if summary.flow_level else ends.get(summary.name, _OTHER) for summary in summaries]


def name_rows(axes: "Axes", summaries: Sequence[TransportSummary]) -> None:
    """The transports' names beside their bars, the first on top."""
    names = [textwrap.fill(s.name, 24) + ("\n(flow level)" if s.flow_level else "") for s in summaries]
    axes.set_yticks(range(len(summaries)), names)
    axes.set_ylim(len(summaries) - 0.5, -0.5)


def bars(axes: "Axes", fill: Sequence[str], seeds: Sequence[Sequence[float]], labels: Sequence[str]) -> None:
    """A bar for the mean of each row, a dot for each seed, and a label behind them."""
    rows = range(len(seeds))
    axes.barh(rows, [sum(values) / len(values) for values in seeds], color=fill, height=0.62)
    for row, (values, label) in enumerate(zip(seeds, labels, strict=True)):
        axes.scatter(values, [row] * len(values), s=13, color="white", edgecolor=INK, linewidth=0.8, zorder=3)
        axes.annotate(label, (max(values), row), (9, 0), textcoords="offset points", va="center", weight="bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)


def steps(axes: "Axes", summaries: Sequence[TransportSummary], curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Steps of x and y for each transport, and a legend on the right; the fastest and the slowest stand out."""
    ends = [summary.name for summary in extremes(summaries)] if differ(summaries) else []
    others = 0
    for summary, fill, (xs, ys) in zip(summaries, colours(summaries), curves, strict=True):
        label = f"{summary.name} (flow level)" if summary.flow_level else summary.name
        if summary.name in ends or summary.flow_level:
            width, above = (1.6, 1) if summary.flow_level else (2.2, 3)
            axes.plot(xs, ys, color=fill, linewidth=width, label=label, zorder=above, drawstyle="steps-post")
            continue
        colour, dash = LINE_FILLS[others % len(LINE_FILLS)], LINE_DASHES[others // len(LINE_FILLS) % len(LINE_DASHES)]
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.3, label=label, zorder=2, drawstyle="steps-post")
        others += 1
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
