"""The time of collectives: over the run, by operation, and by phase of steps that begin with rollouts."""

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, COLOURS, GREY, RED, RULE, SOLID, Level, Rows, Spans, Stacks
from netsim.foundation.units import rounded, size_in_unit, time_unit
from netsim.report.completion import LIGHT_BLUE, colours, labels
from netsim.simulation.results import Results, Run
from netsim.simulation.summary import CollectivesSummary, extreme_runs, extremes, operations, summarise

_PANELS_A_ROW = 3
_MOST_LANES = 6
_LANE, _BETWEEN = 0.11, 0.1
"""Height of a lane and of the gap between operations, in inches."""
_SPOTS = 1200
"""Parts of the picture's width; bars closer than one part are drawn as one."""
ROLLOUT = "rollout"
_FILLS = {ROLLOUT: RED, "forward": BLUE, "backward": LIGHT_BLUE, "optimizer": GREY}
_OTHER = "#7a7f85"


def operations_title(results: Results) -> str:
    """Title: the operation in which the slowest transport loses most, or else the operation that takes longest."""
    kinds = operations(results)
    fastest, slowest = (summary.name for summary in extremes(summarise(results)))
    worst = max(kinds, key=lambda kind: kind.mean_us(slowest) - kind.mean_us(fastest))
    behind = 100 * worst.above(slowest, fastest)
    if behind < 0.5:
        share = kinds[0].mean_us(fastest) / (sum(kind.mean_us(fastest) for kind in kinds) or 1)
        return f"{kinds[0].name} takes {100 * share:.0f} % of the time of all operations"
    said = f"{slowest} spends {behind:.0f} % longer in {worst.name} than {fastest}"
    rest = [kind for kind in kinds if kind is not worst]
    least = sum(kind.mean_us(fastest) for kind in rest)
    if not least:
        return said
    beyond = 100 * (sum(kind.mean_us(slowest) for kind in rest) / least - 1)
    return f"{said}, {abs(beyond):.0f} % {'longer' if beyond >= 0 else 'shorter'} in all else"


def operations_svg(results: Results) -> str:
    """Time of all collectives of each operation, by transport; dots are seeds. Needs several collectives."""
    summaries, kinds = summarise(results), operations(results)
    fastest = extremes(summaries)[0].name
    longest = max(max(values) for kind in kinds for values in kind.times_us.values())
    scale, unit = time_unit(longest)
    panels = [
        Panel(
            [
                Rows(
                    [[us / scale for us in kind.times_us[summary.name]] for summary in summaries],
                    [_excess(kind, summary.name, fastest, scale) for summary in summaries],
                    colours(summaries),
                )
            ],
            title=kind.name, note=_amount(kind), x=f"time ({unit})", rows=labels(summaries), grid="x",
            x_limits=(0, 1.75 * max(longest, 1) / scale),
        )
        for kind in kinds
    ]  # fmt: skip
    rows = [panels[start : start + _PANELS_A_ROW] for start in range(0, len(panels), _PANELS_A_ROW)]
    return chart(*rows, size=(11, 0.4 + len(rows) * (1.1 + 0.4 * len(summaries))), share="both", name="operations")


def _excess(kind: CollectivesSummary, name: str, fastest: str, scale: float) -> str:
    mean, above = rounded(kind.mean_us(name) / scale, 3), kind.above(name, fastest)
    if name == fastest:
        return mean
    return f"{mean}  ×{rounded(1 + above, 2)}" if above >= 2 else f"{mean}  {100 * above:+.1f} %".replace("-", "−")


def _amount(kind: CollectivesSummary) -> str:
    plural = "s" if kind.collectives > 1 else ""
    return f"{kind.collectives} collective{plural}, {size_in_unit(kind.payload_bytes)}"


@lru_cache(maxsize=1)
def phases(results: Results) -> tuple[CollectivesSummary, ...]:
    """One summary a phase, in the order of a step; none unless some collective belongs to rollouts.

    Each collective counts with the time from the end of the collective before it to its own end, so that computation
    in between counts, too. The times of all phases add up to the run.
    """
    if all(span.phase != ROLLOUT for span in results.spans):
        return ()
    members: dict[str, list[int]] = defaultdict(list)
    for index, span in enumerate(results.spans):
        members[span.phase or "other"].append(index)
    times: dict[str, dict[str, list[float]]] = {phase: defaultdict(list) for phase in members}
    for run in results.runs:
        ends = np.array([times_of.end_ps for times_of in run.collectives], dtype=np.int64)
        order = np.argsort(ends, kind="stable")
        took = np.empty_like(ends)
        took[order] = np.diff(ends[order], prepend=0)
        for phase, indices in members.items():
            times[phase][run.transport].append(int(took[indices].sum()) / 1e6)
    payload = {phase: sum(results.spans[index].bytes for index in indices) for phase, indices in members.items()}
    order = [phase for phase in [*_FILLS, *sorted(members.keys() - _FILLS.keys())] if phase in members]
    return tuple(CollectivesSummary(phase, len(members[phase]), payload[phase], times[phase]) for phase in order)


def time_share(results: Results) -> float:
    """Share of rollouts in the time of the transport that completes first, 0 to 1."""
    fastest = extremes(summarise(results))[0].name
    whole = sum(one.mean_us(fastest) for one in phases(results))
    return _rollouts(results).mean_us(fastest) / whole if whole else 0.0


def rollout_sentence(results: Results) -> str:
    """The shares of rollouts in one sentence, with the transport that completes first; empty without rollouts."""
    if not phases(results):
        return ""
    shares = f"{100 * time_share(results):.1f} % of the time and {100 * _payload_share(results):.1f} % of the bytes"
    return f"rollouts take {shares} of the steps under {extremes(summarise(results))[0].name}"


def phases_title(results: Results) -> str:
    """Title: the shares of rollouts in time and bytes, rounded."""
    shares = f"{100 * time_share(results):.0f} % of the time and {100 * _payload_share(results):.0f} % of the bytes"
    return f"Rollouts take {shares} of a step"


def phase_rows(results: Results) -> list[tuple[str, ...]]:
    """A row of text a phase: its collectives, its bytes, and its time with each transport, with their shares."""
    parts, names = phases(results), [summary.name for summary in summarise(results)]
    payload = sum(one.payload_bytes for one in parts) or 1
    wholes = {name: sum(one.mean_us(name) for one in parts) or 1 for name in names}
    return [
        (
            one.name,
            f"{one.collectives:,}",
            f"{one.payload_bytes / 1e6:,.1f} ({100 * one.payload_bytes / payload:.1f} %)",
            *(f"{one.mean_us(name):,.1f} ({100 * one.mean_us(name) / wholes[name]:.1f} %)" for name in names),
        )
        for one in parts
    ]


def phases_svg(results: Results) -> str:
    """A bar for the time of each transport and one for the payload, cut into phases. Needs rollouts."""
    parts, summaries = phases(results), summarise(results)
    scale, unit = time_unit(max(summary.mean_us for summary in summaries))
    names, fills = [one.name for one in parts], [_FILLS.get(one.name, _OTHER) for one in parts]
    times = [[one.mean_us(summary.name) / scale for one in parts] for summary in summaries]
    payload = [[one.payload_bytes / 1e6 for one in parts]]
    bars, bytes_ = Stacks(times, names, fills, "{:.3g}"), Stacks(payload, names, fills, "{:.3g}")
    return chart(
        [Panel([bars], x=f"time ({unit})", rows=labels(summaries), grid="x", legend="right")],
        [Panel([bytes_], x="payload of all messages (MB)", rows=["payload"], grid="x")],
        size=(11, 1.6 + 0.42 * (len(summaries) + 1)), heights=[len(summaries) + 0.3, 1.3], name="phases",
    )  # fmt: skip


def _rollouts(results: Results) -> CollectivesSummary:
    return next(one for one in phases(results) if one.name == ROLLOUT)


def _payload_share(results: Results) -> float:
    whole = sum(one.payload_bytes for one in phases(results))
    return _rollouts(results).payload_bytes / whole if whole else 0.0


class _Row(NamedTuple):
    """The collectives of an operation: its name, how many there are, and the bars of each lane, in picoseconds."""

    op: str
    collectives: int
    lanes: Sequence[np.ndarray]

    @property
    def height(self) -> float:
        return _LANE * max(2, len(self.lanes))


def has_timeline(results: Results) -> bool:
    """Whether there are several collectives."""
    return len(results.spans) > 1


def timeline_title(results: Results) -> str:
    """Title: the share of time in which collectives are under way, by transport."""
    (fastest, share), *slower = [(run.transport, _busy(run)) for run in extreme_runs(results)]
    said = f"Under {fastest}, collectives are under way for {share} of the time"
    return said + "".join(f"; under {name}, for {other}" for name, other in slower)


def timeline_svg(results: Results) -> str:
    """Collectives of the first seed from first arrival to last end, a panel for the fastest and the slowest transport.

    Collectives of an operation that overlap are in lanes; where there are more than fit, the last lane holds the rest.
    """
    runs = extreme_runs(results)
    longest = max(1, *(run.completion_ps for run in runs))
    scale, unit = time_unit(longest / 1e6)
    kinds = [_rows(results, run, longest) for run in runs]
    fills = {row.op: COLOURS[2:][number % len(COLOURS[2:])] for number, row in enumerate(kinds[0])}
    heights = [sum(_BETWEEN + row.height for row in rows) for rows in kinds]
    panels = [
        [_lanes_panel(run, rows, fills, scale, unit, 1.01 * longest / 1e6 / scale)]
        for run, rows in zip(runs, kinds, strict=True)
    ]
    return chart(*panels, size=(11, 0.9 + sum(heights) + 0.5 * len(runs)), share="x", heights=heights, name="timeline")


def _lanes_panel(run: Run, rows: Sequence[_Row], fills: dict[str, str], scale: float, unit: str, end: float) -> Panel:
    """Panel of one run: bars of each operation, from the top down."""
    top, ticks = 0.0, {}
    done = run.completion_ps / 1e6 / scale
    marks: list[Spans | Level] = [Level(done, upright=True)]
    for row in rows:
        thick = row.height / len(row.lanes)
        marks += [
            Spans(top + (lane + 0.5) * thick, bars / 1e6 / scale, fills[row.op], height=0.82 * thick)
            for lane, bars in enumerate(row.lanes)
        ]
        ticks[top + row.height / 2] = f"{row.op} ({row.collectives:,})"
        top += row.height + _BETWEEN
        marks.append(Level(top - _BETWEEN / 2, colour=RULE, dash=SOLID, width=0.8))
    return Panel(
        marks, title=f"{run.transport}: done at {rounded(done, 3)} {unit}", x=f"time ({unit})", grid="x",
        x_limits=(0, end), y_limits=(top - _BETWEEN / 2, -_BETWEEN / 2), y_ticks=ticks,
    )  # fmt: skip


def _busy(run: Run) -> str:
    busy = int(np.diff(_merged(_times(run), 0)).sum())
    return f"{100 * busy / max(run.completion_ps, 1):.0f} %"


def _times(run: Run) -> np.ndarray:
    """Begin and end of each collective, [collective, 2]."""
    return np.array([(times.start_ps, times.end_ps) for times in run.collectives], dtype=np.int64).reshape(-1, 2)


def _rows(results: Results, run: Run, longest_ps: int) -> list[_Row]:
    """A row an operation, the one with the most time first."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, span in enumerate(results.spans):
        members[span.op].append(index)
    times, spot = _times(run), longest_ps // _SPOTS
    work = {op: int(np.diff(times[indices]).sum()) for op, indices in members.items()}
    order = sorted(members, key=lambda op: -work[op])
    return [_Row(op, len(members[op]), lanes(times[members[op]], spot)) for op in order]


def lanes(times: np.ndarray, spot_ps: int) -> list[np.ndarray]:
    """Deals collectives [collective, 2] to lanes without overlap, except in the last of `_MOST_LANES` lanes."""
    dealt: list[list[tuple[int, int]]] = []
    free: list[tuple[int, int]] = []
    for begin, end in sorted(map(tuple, times.tolist())):
        if free and free[0][0] <= begin:
            _, lane = heappop(free)
        elif len(dealt) < _MOST_LANES:
            lane = len(dealt)
            dealt.append([])
        else:
            dealt[-1].append((begin, end))
            continue
        dealt[lane].append((begin, end))
        heappush(free, (end, lane))
    return [_merged(np.array(lane, dtype=np.int64), spot_ps) for lane in dealt]


def _merged(times: np.ndarray, spot_ps: int) -> np.ndarray:
    """The union of intervals; gaps of at most `spot_ps` are closed."""
    bars: list[list[int]] = []
    for begin, end in sorted(map(tuple, times.tolist())):
        if bars and begin <= bars[-1][1] + spot_ps:
            bars[-1][1] = max(bars[-1][1], end)
        else:
            bars.append([begin, end])
    return np.array(bars, dtype=np.int64).reshape(-1, 2)
