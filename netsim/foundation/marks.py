"""Marks of charts: colours, lines, dots, bars, maps. Each draws itself on the axes of a panel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

INK, SOFT, RULE, FAINT, PAPER = "#1c2733", "#5b6875", "#dde3e9", "#e6eaee", "#ffffff"
BLUE, RED, GREEN, PINK, AMBER, SKY, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9aa5b1"
COLOURS = (BLUE, RED, GREEN, PINK, AMBER, SKY, "#8c6d31", "#6a51a3", "#9e1b4a", "#7a7f85")
"""Seven of Okabe and Ito, which colour-blind readers can distinguish, and four darker ones."""
MARKERS = "osD^vPX"
SOLID, DASHED, DOTTED = "-", "--", ":"
AMOUNTS = ("#ffffff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
"""Colours of a map: white for nothing, dark blue for the most."""
DEVIATIONS = ("#2166ac", "#92c5de", "#f8f8f8", "#f4a582", "#b2182b")
"""Colours of a map: blue below the middle, red above it."""
_MOST_STROKES = 1000
"""Most strokes of one style that are drawn as shapes, which a viewer can still scale."""


class Mark(Protocol):
    """Shapes on a panel."""

    def draw(self, axes: Axes) -> None:
        """Adds the shapes to the axes of a panel."""
        ...


@dataclass(frozen=True)
class Line:
    """A line through points, or a staircase that changes at each of them; with a name it is in the legend."""

    x: ArrayLike
    y: ArrayLike
    colour: str = BLUE
    name: str = ""
    dash: str = SOLID
    marker: str = ""
    width: float = 1.8
    steps: bool = False
    alpha: float = 1.0

    def draw(self, axes: Axes) -> None:
        drawn = "steps-post" if self.steps else "default"
        axes.plot(
            self.x, self.y, color=self.colour, label=self.name or None, linestyle=self.dash, linewidth=self.width,
            marker=self.marker or None, markersize=5.5, markeredgecolor=PAPER, markeredgewidth=0.7,
            drawstyle=drawn, alpha=self.alpha,
        )  # fmt: skip


@dataclass(frozen=True)
class Dots:
    """Dots of one colour, or of one each; `size` is their area in square points, one number or one for each."""

    x: ArrayLike
    y: ArrayLike
    colour: Any = BLUE
    name: str = ""
    size: Any = 16
    marker: str = "o"
    edge: str = PAPER
    alpha: float = 1.0

    def draw(self, axes: Axes) -> None:
        edge = None if self.marker in "|_x+" else self.edge
        axes.scatter(
            self.x, self.y, c=self.colour, s=self.size, marker=self.marker, label=self.name or None, alpha=self.alpha,
            edgecolors=edge, linewidths=1.6 if edge is None else 0.7, zorder=3,
        )  # fmt: skip


@dataclass(frozen=True)
class Band:
    """The area between two curves."""

    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    colour: str = BLUE
    steps: bool = False
    alpha: float = 0.16

    def draw(self, axes: Axes) -> None:
        step = "post" if self.steps else None
        axes.fill_between(
            self.x, self.low, self.high, color=self.colour, alpha=self.alpha, linewidth=0, step=step, zorder=1
        )  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Level:
    """A line across the panel at a value, horizontal or vertical, or with `to` the zone between two values."""

    value: float
    name: str = ""
    colour: str = SOFT
    dash: str = DASHED
    upright: bool = False
    to: float | None = None
    width: float = 1.1

    def draw(self, axes: Axes) -> None:
        if self.to is not None:
            zone = axes.axvspan if self.upright else axes.axhspan
            zone(self.value, self.to, color=self.colour, linewidth=0, zorder=0, label=self.name or None)
            return
        line = axes.axvline if self.upright else axes.axhline
        line(self.value, color=self.colour, linestyle=self.dash, linewidth=self.width, label=self.name or None)


@dataclass(frozen=True)
class Rows:
    """Horizontal bars, the first on top: the mean of each row of values, a dot for each where there are several.

    Texts stand behind the bars; an empty row has no bar.
    """

    values: Sequence[Sequence[float]]
    texts: Sequence[str] = ()
    colours: Sequence[str] = (BLUE,)

    def draw(self, axes: Axes) -> None:
        reach = max((max(row) for row in self.values if row), default=0.0) or 1.0
        for place, row in enumerate(self.values):
            if row:
                axes.barh(place, sum(row) / len(row), color=self.colours[place % len(self.colours)], height=0.62)
            if len(row) > 1:
                axes.scatter(row, [place] * len(row), s=13, color=PAPER, edgecolor=INK, linewidth=0.8, zorder=3)
            if self.texts:
                end = (max(row, default=0.0), place)
                axes.annotate(self.texts[place], end, (8, 0), textcoords="offset points", va="center", weight="bold")
        axes.set_xlim(min(0.0, min((min(row) for row in self.values if row), default=0.0)), 1.25 * reach)
        axes.set_ylim(len(self.values) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


@dataclass(frozen=True)
class Stacks:
    """Horizontal bars of parts, the first on top: amounts [rows][parts], and name and colour of each part.

    Parts that are wide enough hold their amount, written in `form`; texts stand behind the bars.
    """

    amounts: Sequence[Sequence[float]]
    names: Sequence[str]
    colours: Sequence[str] = COLOURS
    form: str = ""
    texts: Sequence[str] = ()

    def draw(self, axes: Axes) -> None:
        places = list(range(len(self.amounts)))
        ends = [0.0] * len(self.amounts)
        reach = max((sum(row) for row in self.amounts), default=0.0) or 1.0
        for part, name in enumerate(self.names):
            sizes = [row[part] for row in self.amounts]
            if not any(sizes):
                continue
            bars = axes.barh(places, sizes, left=ends, color=self.colours[part], height=0.62, label=name)
            if self.form:
                texts = [self.form.format(size) if size > 0.06 * reach else "" for size in sizes]
                axes.bar_label(bars, texts, label_type="center", color=_readable(self.colours[part]), fontsize=9)
            ends = [end + size for end, size in zip(ends, sizes, strict=True)]
        for place, text in enumerate(self.texts):
            axes.annotate(text, (ends[place], place), (8, 0), textcoords="offset points", va="center", weight="bold")
        axes.set_xlim(0, (1.15 if self.texts else 1.0) * reach)
        axes.set_ylim(len(self.amounts) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)


@dataclass(frozen=True)
class Spans:
    """Horizontal bars from begins to ends [N, 2], all in one row."""

    place: float
    spans: ArrayLike
    colour: str = BLUE
    height: float = 0.62

    def draw(self, axes: Axes) -> None:
        bars = [(begin, end - begin) for begin, end in np.asarray(self.spans, dtype=np.float64).reshape(-1, 2).tolist()]
        axes.broken_barh(bars, (self.place - self.height / 2, self.height), color=self.colour, linewidth=0)


@dataclass(frozen=True)
class Strokes:
    """Straight lines of two points and curves of three, all of one look; very many become an image."""

    lines: Sequence[Sequence[tuple[float, float]]]
    colour: str = BLUE
    width: float = 1.1
    dash: str = SOLID
    alpha: float = 1.0

    def draw(self, axes: Axes) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        codes = {2: (Path.MOVETO, Path.LINETO), 3: (Path.MOVETO, Path.CURVE3, Path.CURVE3)}
        kinds = [code for line in self.lines for code in codes[len(line)]]
        path = Path([point for line in self.lines for point in line], kinds)
        patch = PathPatch(
            path, facecolor="none", edgecolor=self.colour, linewidth=self.width, linestyle=self.dash,
            alpha=self.alpha, rasterized=len(self.lines) > _MOST_STROKES,
        )  # fmt: skip
        axes.add_patch(patch)


@dataclass(frozen=True)
class Histogram:
    """Amounts between edges, one more than amounts: filled columns, or their outline."""

    edges: ArrayLike
    amounts: ArrayLike
    colour: str = BLUE
    name: str = ""
    fill: bool = True

    def draw(self, axes: Axes) -> None:
        axes.stairs(
            np.asarray(self.amounts), np.asarray(self.edges), color=self.colour, fill=self.fill, linewidth=1.8,
            label=self.name or None,
        )  # fmt: skip


@dataclass(frozen=True)
class HeatMap:
    """A coloured cell for each value [R, C], with its number where a form is given, such as `"{:.0%}"`.

    `texts` [R, C] are written in place of numbers, those of the cells `bold` in bold. `colours` are those from the
    lowest to the highest value, or the name of a matplotlib colour map; `extent` is left, right, bottom and top in
    units of the axes (default: cells are numbered from 0).
    """

    values: NDArray[Any]
    colours: Sequence[str] | str = AMOUNTS
    low: float = 0.0
    high: float = 1.0
    form: str = ""
    extent: tuple[float, float, float, float] | None = None
    log: bool = False
    fill: bool = True
    texts: Sequence[Sequence[str]] | None = None
    bold: Collection[tuple[int, int]] = ()

    def draw(self, axes: Axes) -> None:
        from matplotlib.colors import LogNorm, Normalize

        scale = (LogNorm if self.log else Normalize)(self.low, self.high)
        axes.imshow(
            self.values, cmap=colour_map(self.colours), norm=scale, extent=self.extent, interpolation="nearest",
            aspect="auto" if self.fill else "equal",
        )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if not self.form and self.texts is None:
            return
        for (row, column), value in np.ndenumerate(self.values):
            if np.isfinite(value):
                text = self.form.format(value) if self.texts is None else self.texts[int(row)][int(column)]
                ink = _readable(colour_map(self.colours)(scale(value)))
                weight = "bold" if (row, column) in self.bold else "normal"
                axes.text(column, row, text, ha="center", va="center", color=ink, weight=weight, fontsize=8.5)


@dataclass(frozen=True)
class Frames:
    """Rectangles around parts of a map: left, right, bottom and top of each, in units of the axes."""

    edges: Sequence[tuple[float, float, float, float]]
    colour: str = RED
    width: float = 1.2

    def draw(self, axes: Axes) -> None:
        for left, right, bottom, top in self.edges:
            axes.plot(
                (left, right, right, left, left), (bottom, bottom, top, top, bottom), color=self.colour,
                linewidth=self.width, solid_joinstyle="miter", clip_on=False,
            )  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """An image [H, W] or [H, W, 3] of values from 0 to 1."""

    image: NDArray[Any]

    def draw(self, axes: Axes) -> None:
        axes.imshow(np.clip(self.image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


@dataclass(frozen=True)
class Words:
    """A text at a distance of `offset` points from (x, y), given in units of the axes or, with `share`, as shares."""

    x: float
    y: float
    text: str
    colour: str = INK
    offset: tuple[float, float] = (0, 0)
    align: Literal["left", "center", "right"] = "left"
    bold: bool = False
    share: bool = False
    size: float = 9.5

    def draw(self, axes: Axes) -> None:
        axes.annotate(
            self.text, (self.x, self.y), self.offset, "axes fraction" if self.share else "data", "offset points",
            color=self.colour, ha=self.align, va="center", weight="bold" if self.bold else "normal",
            fontsize=self.size,
        )  # fmt: skip


def colour_map(colours: Sequence[str] | str) -> Colormap:
    """A colour map from colours, lowest value first, or by its matplotlib name; NaN is clear."""
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    if isinstance(colours, str):
        return colormaps[colours]
    return LinearSegmentedColormap.from_list("amounts", list(colours))


def _readable(ground: Any) -> str:
    """A readable colour for text on a ground; it does not change with the page's colour scheme."""
    from matplotlib.colors import to_rgb

    return "#fefefe" if np.dot(to_rgb(ground), (0.299, 0.587, 0.114)) < 0.55 else "#1b2631"
