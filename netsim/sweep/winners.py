"""The cells of a sweep in a few numbers, and the map of which of two groups of transports wins where."""

from collections.abc import Mapping, Sequence
from itertools import product
from math import log2
from typing import Any, NamedTuple

import numpy as np

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import HeatMap
from netsim.foundation.page import Figure, Section
from netsim.simulation.summary import TransportSummary, summary_of

SweepCell = tuple[Mapping[str, str], Mapping[str, Any]]
"""The values of a cell by dotted key, and the content of its results.json."""
_PANELS_A_ROW = 4
_EVEN = 0.005
"""Times that differ by less than this share count as equal."""
_STRONGEST = 1.0
"""Binary logarithm of the ratio of times from which colours are saturated: one takes twice as long."""
_WINS = ("#d55e00", "#f0b27a", "#f1f4f6", "#7fb2d8", "#0072b2")
_CAPTION = (
    "The number says by how much the other group's fastest transport takes longer than that of the group that wins, in "
    "the mean over the seeds. ≈: the seeds of both overlap, so that neither wins. *: queues dropped packets under the "
    "winner, too, whose time may be that of a timeout. Empty: a run is missing."
)


class Sweep:
    """All cells: the values of each key, those that vary as `axes`, and a summary for each place and transport.

    A place has the value of each axis.
    """

    def __init__(self, cells: Sequence[SweepCell]) -> None:
        changes = [dict(overrides) for overrides, _ in cells]
        keys = dict.fromkeys(key for change in changes for key in change)
        self.values = {key: list(dict.fromkeys(change.get(key, "-") for change in changes)) for key in keys}
        self.axes = [key for key in keys if len(self.values[key]) > 1]
        self.constant = {key: self.values[key][0] for key in keys if len(self.values[key]) == 1}
        self.places = [tuple(change.get(axis, "-") for axis in self.axes) for change in changes]
        self.by_place: dict[tuple[tuple[str, ...], str], TransportSummary] = {}
        for place, (_, results) in zip(self.places, cells, strict=True):
            seeds: dict[str, list[Mapping[str, Any]]] = {}
            for run in results["runs"]:
                seeds.setdefault(run["transport"], []).append(run)
            self.by_place |= {(place, name): summary_of(name, runs) for name, runs in seeds.items()}
        self.summaries = list(self.by_place.values())
        self.transports = list(dict.fromkeys(summary.name for summary in self.summaries))

    def leaders(self, place: tuple[str, ...]) -> frozenset[str]:
        """The fastest transport of a cell and those within half a percent, with packets if there are any."""
        here = [self.by_place[place, name] for name in self.transports if (place, name) in self.by_place]
        among = [summary for summary in here if not summary.flow_level] or here
        least = min(summary.mean_us for summary in among)
        return frozenset(summary.name for summary in among if summary.mean_us <= (1 + _EVEN) * least)


class SweepMap(NamedTuple):
    """Axes of columns and rows, and two named groups of transports; a group is as fast as its fastest transport.

    `titles` are words for axes, in place of their keys.
    """

    across: str
    down: str
    groups: Mapping[str, Sequence[str]]
    titles: Mapping[str, str] = {}

    def title(self, axis: str) -> str:
        """The words for an axis, or its key."""
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
        """Whether neither group wins, since the seeds overlap or the difference is small."""
        return not self.certain or abs(self.advantage) < log2(1 + _EVEN)

    @property
    def text(self) -> str:
        """How much longer the slower group takes; ≈ if seeds overlap, * if packets were dropped."""
        return f"{'' if self.certain else '≈ '}{_longer(abs(self.advantage))}{' *' * self.lossy}"


def map_section(sweep: Sweep, shown: SweepMap) -> Section:
    """The map, headed by who wins where."""
    groups = "; ".join(f"{name}: {', '.join(transports)}" for name, transports in shown.groups.items())
    return Section(map_title(sweep, shown), [Figure(map_svg(sweep, shown), f"{_CAPTION} Groups: {groups}.")])


def map_title(sweep: Sweep, shown: SweepMap) -> str:
    """Who wins how often, and the largest gap, in one line."""
    fields = [field for _, panel in _panels(sweep, shown) for row in panel for field in row]
    known = [field for field in fields if not np.isnan(field.advantage)]
    first, second = shown.groups
    clear = [field for field in known if not field.even]
    ahead, behind = (sum(sign * field.advantage > 0 for field in clear) for sign in (1, -1))
    counts = f"{first} wins in {ahead} of {len(known)} scenarios, {second} in {behind}"
    largest = max((abs(field.advantage) for field in clear), default=0.0)
    title = f"{counts}, {len(known) - len(clear)} cannot be told apart; the largest gap is {_longer(largest)}"
    return title[:1].upper() + title[1:]


def map_svg(sweep: Sweep, shown: SweepMap) -> str:
    """A panel for each combination of the other axes, in it a field for each scenario.

    The colour shows which group wins, the number by how much the other group's time is longer; fields whose seeds
    overlap have the colour of even ones.
    """
    rows, columns = sweep.values[shown.down], sweep.values[shown.across]
    others = [axis for axis in sweep.axes if axis not in (shown.across, shown.down)]
    panels = _panels(sweep, shown)
    beside = len(sweep.values[others[-1]]) if others else 1
    wide = min(_PANELS_A_ROW, beside if len(panels) % beside == 0 else len(panels))
    drawn = []
    for number, (values, fields) in enumerate(panels):
        advantage = [[field.advantage if field.certain else 0.0 for field in row] for row in fields]
        texts = [[field.text for field in row] for row in fields]
        cells = HeatMap(np.array(advantage), _WINS, -_STRONGEST, _STRONGEST, texts=texts)
        below = shown.title(shown.across) if number + wide >= len(panels) else ""
        side = shown.title(shown.down) if number % wide == 0 else ""
        ticks = {float(place): name for place, name in enumerate(columns)}
        drawn.append(Panel([cells], ", ".join(values), x=below, y=side, x_ticks=ticks, rows=rows, grid=""))
    lines = [drawn[start : start + wide] for start in range(0, len(drawn), wide)]
    first, second = shown.groups
    ends = {-_STRONGEST: f"{second} at least\ntwice as fast", 0: "even", _STRONGEST: f"{first} at least\ntwice as fast"}
    key = Key("", _WINS, -_STRONGEST, _STRONGEST, ends)
    return chart(*lines, size=(11, 1.2 + len(lines) * (0.7 + 0.36 * len(rows))), share="both", key=key, name="map")


def _panels(sweep: Sweep, shown: SweepMap) -> list[tuple[tuple[str, ...], list[list[_Field]]]]:
    """For each combination of values of the other axes: these values, and the fields [down, across]."""
    others = [axis for axis in sweep.axes if axis not in (shown.across, shown.down)]
    rows, columns = sweep.values[shown.down], sweep.values[shown.across]
    panels = []
    for values in product(*(sweep.values[axis] for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        fields = [
            [_field(sweep, shown, fixed | {shown.down: row, shown.across: column}) for column in columns]
            for row in rows
        ]
        panels.append((values, fields))
    return panels


def _field(sweep: Sweep, shown: SweepMap, place: Mapping[str, str]) -> _Field:
    """Compares the fastest transports of both groups in a scenario."""
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


def _longer(advantage: float) -> str:
    """How much longer the slower group takes: in per cent, or as a factor from twice on."""
    ratio = 2.0**advantage
    if ratio >= 2:
        return f"×{ratio:.{0 if ratio >= 9.95 else 1}f}"
    return "=" if ratio < 1 + _EVEN else f"{100 * (ratio - 1):.{0 if ratio >= 1.0995 else 1}f} %"
