"""How busy the links of the fabric are, and how evenly each transport spreads its work over them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import DOTTED, INK, PAPER, Dots, Mark, Strokes, Words
from netsim.foundation.units import time_unit
from netsim.report.completion import colours, labels
from netsim.report.layout import Drawing, Stroke, drawings
from netsim.simulation.results import Results, Run
from netsim.simulation.summary import extreme_runs, extremes, summarise

_BUSY = ("#b9c9d6", "#7db4da", "#3f8fc6", "#6a51a3", "#a8477a", "#d55e00")
"""Colours from idle to busiest, visible on light and on dark pages."""
_UNUSED = "#a9b2bb"
_LEVELS = 20
_MOST_NUMBERED = 16
_MOST_TICKS = 300


class Usage(NamedTuple):
    """Share of the run in which each link was busy; the used links between switches, and their busy time."""

    shares: np.ndarray
    fabric: np.ndarray
    busy_us: np.ndarray

    @property
    def busiest(self) -> int | None:
        """The busiest link between switches; None if none carried anything."""
        return int(self.fabric[self.busy_us.argmax()]) if len(self.fabric) else None

    @property
    def most(self) -> float:
        """Busy share of the busiest link between switches."""
        return float(self.shares[self.fabric].max(initial=0))

    @property
    def mean(self) -> float:
        """Mean busy share of the links between switches."""
        return float(self.shares[self.fabric].mean()) if len(self.fabric) else 0.0

    @property
    def mean_us(self) -> float:
        """Mean busy time in microseconds of the links between switches that carried something."""
        return float(self.busy_us.mean()) if len(self.fabric) else 0.0

    @property
    def overload(self) -> float:
        """Time of the busiest link over the mean, less one."""
        return float(self.busy_us.max()) / self.mean_us - 1 if self.mean_us else 0.0


def usage(results: Results, run: Run) -> Usage:
    """How busy the links of a run were."""
    busy_ps = run.links["busy_ps"]
    switches = {name for tier in results.scene.topology.tiers for name in tier}
    between = [number for number, link in enumerate(results.links) if {link.src, link.dst} <= switches]
    fabric = np.array(between, dtype=np.int64)
    used = fabric[run.links["bytes"][fabric] > 0]
    return Usage(busy_ps / max(1, run.completion_ps), used, busy_ps[used] / 1e6)


def links_title(results: Results) -> str:
    """How busy the busiest link is, under the slowest and the fastest transport."""
    runs = {run.transport: usage(results, run) for run in results.first_runs()}
    fast, slow = (summary.name for summary in extremes(summarise(results)))
    if runs[slow].busiest is None:
        return "No traffic crosses the fabric"
    said = f"{slow}: busiest fabric link {_percent(runs[slow].most)} busy, mean {_percent(runs[slow].mean)}"
    return said if slow == fast else f"{said}; {fast}: {_percent(runs[fast].most)} and {_percent(runs[fast].mean)}"


def links_svg(results: Results) -> str:
    """Every link of the fabric on its drawing, by the part of the run in which it is busy; of the first seed."""
    fabrics, runs = drawings(results.scene.topology), extreme_runs(results)[::-1]
    uses = [usage(results, run) for run in runs]
    reach = _reach(max(float(used.shares.max(initial=0)) for used in uses))
    columns = [
        [_fabric(results, fabric, run.transport if not row else "", used, reach) for row, fabric in enumerate(fabrics)]
        for run, used in zip(runs, uses, strict=True)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)] if len(runs) > 1 else columns
    height = 0.5 + len(rows) * (2.9 if fabrics[0].rows else 4.9)
    key = Key("busy (% of the run)", _BUSY, 0, 100 * reach)
    return chart(*rows, size=(11, height), key=key, name="links")


def _fabric(results: Results, fabric: Drawing, name: str, used: Usage, reach: float) -> Panel:
    """A drawing of the fabric, headed by the transport, the direction and the busiest link."""
    inside = sorted({link for stroke in fabric.between for link in stroke.links} & {*used.fabric.tolist()})
    detail = "nothing crosses it"
    if inside:
        busiest = max(inside, key=lambda link: used.shares[link])
        mean = _percent(float(np.mean(used.shares[inside])))
        detail = f"busiest {results.links[busiest].name}, {_percent(float(used.shares[busiest]))}; mean {mean}"
    shares = used.shares / reach
    hosts, between = len(fabric.hosts), len(fabric.between)
    marks: list[Mark] = [
        *_strokes(fabric.hosts, shares, float(np.clip(90 / max(1, hosts), 0.45, 1.6))),
        *_strokes(fabric.between, shares, float(np.clip(11 / max(1, between) ** 0.5, 0.3, 1.9))),
    ]
    crowd = max((sum(y == height for _, y in fabric.switches.values()) for _, height in fabric.rows[1:]), default=0)
    xs, ys = zip(*fabric.switches.values(), strict=True)
    size = float(np.clip(900 / max(crowd, len(fabric.switches) / 2, 1), 16, 90))
    marks.append(Dots(xs, ys, PAPER, size=size, marker="s", edge=INK))
    if crowd <= _MOST_NUMBERED and fabric.rows:
        numbers = [(name[len(name.rstrip("0123456789")) :], place) for name, place in fabric.switches.items()]
        marks += [Words(x, y, digits, align="center", size=6) for digits, (x, y) in numbers]
    marks += [Words(0, height, row, offset=(-8, 0), align="right", size=8) for row, height in fabric.rows]
    return Panel(
        marks, title=name, note=f"{fabric.title}: {detail}" if fabric.title else detail, bare=True,
        x_limits=(0, 1), y_limits=(-0.03, 1.08) if fabric.rows else (0, 1), equal=not fabric.rows,
    )  # fmt: skip


def _strokes(strokes: Sequence[Stroke], shares: np.ndarray, width: float) -> list[Strokes]:
    """Draws lines of one colour as one shape; the busiest are on top and wider."""
    levels: dict[int, list[Stroke]] = {}
    for stroke in strokes:
        share = float(np.mean(shares[list(stroke.links)]))
        levels.setdefault(min(math.ceil(share * _LEVELS), _LEVELS), []).append(stroke)
    return [
        Strokes([stroke.points for stroke in alike], _colour(level), width * (0.6 + 0.9 * level / _LEVELS))
        if level
        else Strokes([stroke.points for stroke in alike], _UNUSED, 0.6 * width, DOTTED)
        for level, alike in sorted(levels.items())
    ]


def _colour(level: int) -> str:
    from matplotlib.colors import to_hex

    from netsim.foundation.marks import colour_map

    return to_hex(colour_map(_BUSY)(level / _LEVELS))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0095 or not share else f"{100 * share:.1g} %"


def _reach(most: float) -> float:
    """The busy share that gets the last colour, given the share of the busiest link of all."""
    return next((reach for reach in (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if reach >= most), 1.0)


def has_loads(results: Results) -> bool:
    """Whether any first run used a link between switches."""
    return any(usage(results, run).busiest is not None for run in results.first_runs())


def loads_title(results: Results) -> str:
    """How uneven the worst transport and the fastest one load the links."""
    overloads = {run.transport: usage(results, run).overload for run in results.first_runs()}
    fastest, _ = extremes(summarise(results))
    worst = max(overloads, key=lambda name: overloads[name])
    if overloads[worst] < 0.005:
        return "Every transport loads the fabric evenly"
    said = f"{worst} overloads its busiest fabric link by {100 * overloads[worst]:.0f} %"
    if worst == fastest.name:
        return said
    rival = "evenly" if overloads[fastest.name] < 0.005 else f"to within {100 * overloads[fastest.name]:.0f} %"
    return f"{said}; {fastest.name} loads all of them {rival}"


def loads_svg(results: Results) -> str:
    """A row a transport: when each link between switches has done its work if it never waits; of the first seed."""
    summaries, runs = summarise(results), results.first_runs()
    uses = {row: used for row, run in enumerate(runs) if len((used := usage(results, run)).fabric)}
    longest = max((float(used.busy_us.max()) for used in uses.values()), default=0.0) or 1.0
    ends = {row: runs[row].completion_ps / 1e6 for row in uses if runs[row].completion_ps / 1e6 <= 1.8 * longest}
    scale, unit = time_unit(longest)
    marks: list[Mark] = []
    for row, used in uses.items():
        ticks = [((x, row - 0.3), (x, row + 0.3)) for x in (_thinned(used.busy_us) / scale).tolist()]
        marks.append(Strokes(ticks, colours(summaries)[row], alpha=0.75))
        text = f"+{100 * used.overload:.0f} %" if used.overload >= 0.005 else "even"
        most = max(float(used.busy_us.max()), ends.get(row, 0.0)) / scale
        marks.append(Words(most, row, text, offset=(8, 0), bold=True))
    means = [used.mean_us / scale for used in uses.values()]
    marks.append(Dots(means, [row - 0.38 for row in uses], INK, "mean link", size=26, marker="v"))
    if ends:
        marks.append(Dots([end / scale for end in ends.values()], list(ends), INK, "completion", 260, "|"))
    panel = Panel(
        marks, x=f"time that a link between switches is busy ({unit})", rows=labels(summaries), grid="x",
        x_limits=(0, 1.12 * max(longest, *ends.values(), 0.0) / scale), y_limits=(len(runs) - 0.5, -0.6),
        legend="right",
    )  # fmt: skip
    return chart([panel], size=(11, 1.1 + 0.42 * len(runs)), name="loads")


def _thinned(values: np.ndarray) -> np.ndarray:
    """A limited number of the values, evenly spread, with the smallest and the largest."""
    ordered = np.sort(values)
    places = np.linspace(0, len(ordered) - 1, min(_MOST_TICKS, len(ordered))).round().astype(np.int64)
    return ordered[places]
