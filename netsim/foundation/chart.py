"""Charts as SVG, from marks on panels: no state is shared, and equal figures give equal bytes.

A picture is `chart([Panel([Line(x, y)], x="step", y="loss")])`. A mark is anything with `draw(axes)`, so that a page
may bring one of its own. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from netsim.foundation.marks import AMOUNTS, INK, RULE, SOFT, Mark, colour_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 6),
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "xtick.color": INK,
    "ytick.color": INK,
}


Limits = tuple[float | None, float | None]


@dataclass(frozen=True)
class Panel:
    """Marks on a pair of axes.

    Attributes:
        marks: In the order in which they are drawn.
        title: Above, in bold.
        note: Below the title.
        x, y: Names of the axes.
        log: Axes that are logarithmic: "x", "y" or "xy".
        x_limits, y_limits: Ends of the axes; None leaves one to the marks.
        x_ticks, y_ticks: Texts at places; none leaves them to matplotlib. `rows` numbers texts of the left axis from 0.
        legend: Where names of marks are: "best" place inside, or "right" of the panel; empty for none.
        grid: Axes whose ticks have lines: "x", "y", "both" or empty.
        bare: Whether no axis is shown.
        equal: Whether a unit is as long on both axes.
        pixels: Whether dots and lines are kept as pixels, as suits thousands of them.
    """

    marks: Sequence[Mark]
    title: str = ""
    note: str = ""
    x: str = ""
    y: str = ""
    log: str = ""
    x_limits: Limits = (None, None)
    y_limits: Limits = (None, None)
    x_ticks: Mapping[float, str] = field(default_factory=dict)
    y_ticks: Mapping[float, str] = field(default_factory=dict)
    rows: Sequence[str] = ()
    legend: Literal["", "best", "right"] = ""
    grid: Literal["", "x", "y", "both"] = "y"
    bare: bool = False
    equal: bool = False
    pixels: bool = False

    def draw(self, axes: Axes) -> None:
        """Draws axes and marks."""
        if self.grid and not self.bare:
            axes.grid(axis=self.grid)
        for mark in self.marks:
            mark.draw(axes)
        for artist in (*axes.collections, *axes.lines) if self.pixels else ():
            artist.set_rasterized(True)
        for name, one, limits, texts in (
            ("x", axes.xaxis, self.x_limits, self.x_ticks),
            ("y", axes.yaxis, self.y_limits, self.y_ticks or dict(enumerate(self.rows))),
        ):
            logarithmic = name in self.log
            if logarithmic:
                getattr(axes, f"set_{name}scale")("log")
            if limits != (None, None):
                getattr(axes, f"set_{name}lim")(*limits)
            if texts:
                one.set_ticks(list(texts), labels=[textwrap.fill(text, 26) for text in texts.values()])
                one.set_ticks([], minor=True)
            elif logarithmic:
                _plain_decades(axes, name)
        axes.set(xlabel=self.x, ylabel=self.y)
        if self.title or self.note:
            axes.set_title(self.title, weight="bold", pad=19 if self.note else 6)
        if self.note:
            axes.annotate(self.note, (0, 1), (0, 5), "axes fraction", "offset points", color=SOFT, fontsize=9)
        if self.legend and axes.get_legend_handles_labels()[1]:
            beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            axes.legend(**({"loc": "best"} if self.legend == "best" else beside))
        if self.equal:
            axes.set_aspect("equal")
        if self.bare:
            axes.set_axis_off()


@dataclass(frozen=True)
class Key:
    """A strip of the colours of a map beside the panels, with texts at values."""

    name: str
    colours: Sequence[str] | str = AMOUNTS
    low: float = 0.0
    high: float = 1.0
    texts: Mapping[float, str] = field(default_factory=dict)
    log: bool = False

    def draw(self, figure: Figure, beside: Sequence[Axes]) -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm, Normalize

        scale = (LogNorm if self.log else Normalize)(self.low, self.high)
        colours = ScalarMappable(scale, colour_map(self.colours))
        bar = figure.colorbar(colours, ax=list(beside), pad=0.015, aspect=28, shrink=0.7, label=self.name)
        if self.texts:
            bar.set_ticks(list(self.texts), labels=list(self.texts.values()))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]  matplotlib types it as a method


def chart(
    *rows: Sequence[Panel],
    size: tuple[float, float] = (11.0, 3.9),
    name: str = "chart",
    title: str = "",
    share: Literal["", "x", "y", "both"] = "",
    widths: Sequence[float] | None = None,
    heights: Sequence[float] | None = None,
    gap: float = 0.02,
    key: Key | None = None,
) -> str:
    """Draws rows of panels; a shorter row leaves empty space.

    Args:
        rows: Panels from left to right, the first row on top.
        size: Width and height in inches; a page of full width has 11.
        name: Makes the ids of the markup unique on a page.
        title: The finding, above all panels.
        share: Axes that all panels have in common; their texts stand at the outer panels alone.
        widths: Of the columns, relative to each other.
        heights: Of the rows, relative to each other.
        gap: Space between columns, in widths of a panel.
        key: Colours of maps, right of the panels.

    Returns:
        An `svg` element.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(wspace=gap))
        if title:
            figure.suptitle(textwrap.fill(title, 9 * round(size[0])), x=0.012, ha="left", weight="bold", size=13)
        columns = max(len(row) for row in rows)
        grid = figure.subplots(
            len(rows), columns, squeeze=False, sharex=share in ("x", "both"), sharey=share in ("y", "both"),
            width_ratios=widths, height_ratios=heights,
        )  # fmt: skip
        for row, panels in enumerate(rows):
            for column in range(columns):
                if column < len(panels):
                    panels[column].draw(grid[row, column])
                else:
                    grid[row, column].remove()
        if key is not None:
            key.draw(figure, [axes for row, panels in zip(grid, rows, strict=True) for axes in row[: len(panels)]])
        return svg_of(figure)


def svg_of(figure: Figure, dpi: float = 72) -> str:
    """The `svg` element of a figure, without a date; `dpi` are the dots per inch of the pictures in it."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", dpi=dpi, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :]


def bent(names: Sequence[str], most: int = 24) -> list[str]:
    """Names that are short enough for the side of a panel."""
    return [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]


def _plain_decades(axes: Axes, name: str) -> None:
    """Numbers such as 0.2 and 1, where a logarithmic axis would write powers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1e3 else (1.0,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}")
