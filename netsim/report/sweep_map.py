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


class SweepMap(NamedTuple):
    """What a map compares.

    Args:
        across: Axis whose values are the columns.
        down: Axis whose values are the rows.
        groups: Two groups of transports, by name; a group's time in a scenario is that of its fastest transport.
    """

    across: str
    down: str
    groups: Mapping[str, Sequence[str]]


class _Panel(NamedTuple):
    """The scenarios that share the values of all other axes: those values, and the advantage of the first group, the
    binary logarithm of the second group's time over its own, [down, across]; NaN where a run is missing."""

    values: Sequence[str]
    advantage: np.ndarray


def map_title(sweep: Sweep, shown: SweepMap) -> str:
    """The finding of `map_svg` in one line."""
    advantages = np.concatenate([panel.advantage.ravel() for panel in _panels(sweep, shown)])
    known = advantages[~np.isnan(advantages)]
    first, second = shown.groups
    edge = log2(1 + _EVEN)
    ahead, behind = int((known > edge).sum()), int((known < -edge).sum())
    even = len(known) - ahead - behind
    counts = f"{first} wins in {ahead} of {len(known)} scenarios, {second} in {behind}, {even} are even"
    return f"{counts}; the largest gap is {_longer(max(known.max(initial=0.0), -known.min(initial=0.0)))}"


def map_svg(sweep: Sweep, shown: SweepMap) -> str:
    """A panel for each combination of the other axes, in it a field for each scenario.

    The colour tells which group wins, the number by how much the other group's time is longer.
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
    with matplotlib.rc_context(STYLE):
        size = 1.3 + high * (0.55 + 0.34 * len(rows))
        figure = new_figure(10, size, map_title(sweep, shown))
        grid = figure.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.imshow(panel.advantage, cmap=fills, norm=norm, aspect="auto")
            _write(axes, panel, norm)
            name = ", ".join(panel.values)
            axes.set_title(name, loc="left", weight="bold", size=9.5)
            axes.set_xticks(range(len(columns)), columns, size=8)
            axes.set_yticks(range(len(rows)), rows, size=8)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        for unused in list(grid.flat)[len(panels) :]:
            unused.remove()
        for line in grid:
            line[0].set_ylabel(shown.down, size=9, color=FAINT)
        figure.supxlabel(shown.across, size=9, color=FAINT)
        first, second = shown.groups
        bar = figure.colorbar(
            ScalarMappable(norm, fills), ax=grid, pad=0.01, aspect=26, shrink=min(1.0, 2.2 / size + 0.2)
        )
        bar.set_ticks(
            [-_STRONGEST, 0, _STRONGEST], labels=[f"{second}\ntwice as fast", "even", f"{first}\ntwice as fast"]
        )
        bar.outline.set_visible(False)
        return to_svg(figure, "map")


def _panels(sweep: Sweep, shown: SweepMap) -> list[_Panel]:
    others = [axis for axis in sweep.axes if axis not in (shown.across, shown.down)]
    rows, columns = sweep.values[shown.down], sweep.values[shown.across]
    panels = []
    for values in product(*(sweep.values[axis] for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        advantage = [
            [_advantage(sweep, shown, fixed | {shown.down: row, shown.across: column}) for column in columns]
            for row in rows
        ]
        panels.append(_Panel(values, np.array(advantage, dtype=np.float64)))
    return panels


def _advantage(sweep: Sweep, shown: SweepMap, place: Mapping[str, str]) -> float:
    """Of the first group in a scenario."""
    where = tuple(place[axis] for axis in sweep.axes)
    times = [
        [summary.mean_us for name in names if (summary := sweep.by_place.get((where, name))) is not None]
        for names in shown.groups.values()
    ]
    first, second = times
    return log2(min(second) / min(first)) if first and second else float("nan")


def _write(axes: "Axes", panel: _Panel, norm: Any) -> None:
    """By how much the group that loses takes longer."""
    for (row, column), value in np.ndenumerate(panel.advantage):
        if np.isnan(value):
            continue
        colour = "white" if abs(norm(value) - 0.5) > 0.36 else INK
        axes.text(column, row, _longer(abs(value)), ha="center", va="center", size=8, color=colour)


def _longer(advantage: float) -> str:
    """How much longer the group that loses takes: per cent, or from twice on a factor."""
    ratio = 2.0**advantage
    if ratio >= 2:
        return f"×{ratio:.{0 if ratio >= 9.95 else 1}f}"
    return "=" if ratio < 1 + _EVEN else f"{100 * (ratio - 1):.{0 if ratio >= 1.0995 else 1}f} %"
