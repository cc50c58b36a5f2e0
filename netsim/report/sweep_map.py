"""The map of a sweep: which of two groups of transports wins where, and by how much."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from netsim.report.drawing import FAINT, INK, STYLE, new_figure, to_svg
from netsim.report.sweep_summary import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS_A_ROW = 4
_EVEN = 0.005
"""Groups whose times differ by less than this share are even."""
_STRONGEST = 1.0
"""Binary logarithm of the ratio of times beyond which colours no longer change: one takes twice as long."""
_HATCH = "#9aa5b1"
"""Colour of hatches."""


class SweepMap(NamedTuple):
    """Axes of columns and rows, and two named groups of transports; a group is as fast as its fastest transport.

    `titles` are words for axes, in place of their keys.
    """

    across: str
    down: str
    groups: Mapping[str, Sequence[str]]
    titles: Mapping[str, str] = {}

    def title(self, axis: str) -> str:
        """Words for an axis."""
        return self.titles.get(axis, axis)


class _Field(NamedTuple):
    """A scenario of the map.

    `advantage` of the first group is the binary logarithm of the second group's time over its own, NaN if a run is
    missing. It is `certain` if every seed of the faster group's fastest transport ends before every seed of the
    other's, `lossy` if that transport dropped packets.
    """

    advantage: float
    certain: bool = True
    lossy: bool = False

    @property
    def even(self) -> bool:
        """No difference can be told."""
        return not self.certain or abs(self.advantage) < log2(1 + _EVEN)


class _Panel(NamedTuple):
    """The scenarios that share the values of all other axes: those values, and the fields by rows."""

    values: Sequence[str]
    fields: Sequence[Sequence[_Field]]

    @property
    def advantage(self) -> np.ndarray:
        """Of the first group, [down, across]."""
        return np.array([[field.advantage for field in row] for row in self.fields], dtype=np.float64)


def map_title(sweep: Sweep, shown: SweepMap) -> str:
    """The finding of `map_svg` in one line."""
    fields = [field for panel in _panels(sweep, shown) for row in panel.fields for field in row]
    known = [field for field in fields if not np.isnan(field.advantage)]
    first, second = shown.groups
    told = [field for field in known if not field.even]
    ahead, behind = (sum(sign * field.advantage > 0 for field in told) for sign in (1, -1))
    counts = f"{first} wins in {ahead} of {len(known)} scenarios, {second} in {behind}"
    largest = max((abs(field.advantage) for field in told), default=0.0)
    title = f"{counts}, {len(known) - len(told)} cannot be told apart; the largest gap is {_longer(largest)}"
    return title[:1].upper() + title[1:]


def map_svg(sweep: Sweep, shown: SweepMap) -> str:
    """A panel for each combination of the other axes, in it a field for each scenario.

    The colour tells which group wins, the number by how much the other group's time is longer. Fields whose seeds
    overlap are hatched; a dot says that the winner lost packets.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    panels = _panels(sweep, shown)
    rows, columns = sweep.values[shown.down], sweep.values[shown.across]
    others = [axis for axis in sweep.axes if axis not in (shown.across, shown.down)]
    beside = len(sweep.values[others[-1]]) if others else 1
    wide = min(_PANELS_A_ROW, beside if len(panels) % beside == 0 else len(panels))
    high = -(-len(panels) // wide)
    fills = LinearSegmentedColormap.from_list("wins", ["#d55e00", "#f0b27a", "#f1f4f6", "#7fb2d8", "#0072b2"])
    fills = fills.with_extremes(bad="white")
    norm = Normalize(-_STRONGEST, _STRONGEST, clip=True)
    with matplotlib.rc_context(STYLE | {"hatch.linewidth": 0.7}):
        size = 1.9 + high * (0.62 + 0.36 * len(rows))
        figure = new_figure(10, size, map_title(sweep, shown))
        grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.imshow(panel.advantage, cmap=fills, norm=norm, aspect="auto")
            _write(axes, panel, norm)
            axes.set_title(", ".join(panel.values), loc="left", weight="bold", size=9.5)
            axes.set_xticks(range(len(columns)), columns, size=8.5)
            axes.set_yticks(range(len(rows)), rows, size=8.5)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for unused in list(grid.flat)[len(panels) :]:
            unused.remove()
        figure.supxlabel(shown.title(shown.across), size=9.5, color=FAINT)
        figure.supylabel(shown.title(shown.down), size=9.5, color=FAINT)
        first, second = shown.groups
        place = {"location": "top", "pad": 0.02, "aspect": 55, "shrink": 0.6, "anchor": (0.0, 0.5)}
        bar = figure.colorbar(ScalarMappable(norm, fills), ax=grid, **place)
        ends = f"{second} at least\ntwice as fast", "even", f"{first} at least\ntwice as fast"
        bar.set_ticks([-_STRONGEST, 0, _STRONGEST], labels=ends, size=8.5)
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        _explain(bar.ax, panels)
        return to_svg(figure, "map")


def _explain(axes: "Axes", panels: Sequence[_Panel]) -> None:
    """What hatches and dots say, to the right of the colours, if there are any."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    fields = [field for panel in panels for row in panel.fields for field in row]
    marks: list[tuple[Any, str]] = []
    if not all(field.certain for field in fields):
        marks.append((Patch(facecolor="#f1f4f6", edgecolor=_HATCH, hatch="////", linewidth=0), "seeds of both overlap"))
    if any(field.lossy for field in fields):
        dot = Line2D([], [], linestyle="", marker="o", markersize=3.5, color=INK)
        marks.append((dot, "the winner lost packets"))
    if marks:
        handles, labels = zip(*marks, strict=True)
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.12, 0.8), frameon=False, fontsize=8.5)


def _panels(sweep: Sweep, shown: SweepMap) -> list[_Panel]:
    others = [axis for axis in sweep.axes if axis not in (shown.across, shown.down)]
    rows, columns = sweep.values[shown.down], sweep.values[shown.across]
    panels = []
    for values in product(*(sweep.values[axis] for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        fields = [
            [_field(sweep, shown, fixed | {shown.down: row, shown.across: column}) for column in columns]
            for row in rows
        ]
        panels.append(_Panel(values, fields))
    return panels


def _field(sweep: Sweep, shown: SweepMap, place: Mapping[str, str]) -> _Field:
    """What is known of a scenario."""
    where = tuple(place[axis] for axis in sweep.axes)
    fastest = []
    for names in shown.groups.values():
        known = [summary for name in names if (summary := sweep.by_place.get((where, name))) is not None]
        if not known:
            return _Field(float("nan"))
        fastest.append(min(known, key=lambda summary: summary.mean_us))
    first, second = fastest
    winner, loser = sorted(fastest, key=lambda summary: summary.mean_us)
    certain = max(winner.completions_us) < min(loser.completions_us)
    return _Field(log2(second.mean_us / first.mean_us), certain, winner.dropped_packets > 0)


def _write(axes: "Axes", panel: _Panel, norm: Any) -> None:
    """By how much the group that loses takes longer, and the marks of each field."""
    from matplotlib.patches import Rectangle

    for (row, column), value in np.ndenumerate(panel.advantage):
        if np.isnan(value):
            continue
        field = panel.fields[row][column]
        colour = "white" if abs(norm(value) - 0.5) > 0.36 else INK
        if not field.certain:
            corner = column - 0.5, row - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_HATCH, hatch="////", linewidth=0))
        behind = {"facecolor": "#f1f4f6", "edgecolor": "none", "pad": 1.2, "alpha": 0.9}
        text = _longer(abs(value))
        axes.text(
            column, row, text, ha="center", va="center", size=8.5, color=colour, bbox=None if field.certain else behind
        )
        if field.lossy:
            axes.plot(column + 0.4, row - 0.32, marker="o", markersize=2.6, color=colour)


def _longer(advantage: float) -> str:
    """How much longer the group that loses takes: per cent, or from twice on a factor."""
    ratio = 2.0**advantage
    if ratio >= 2:
        return f"×{ratio:.{0 if ratio >= 9.95 else 1}f}"
    return "=" if ratio < 1 + _EVEN else f"{100 * (ratio - 1):.{0 if ratio >= 1.0995 else 1}f} %"
