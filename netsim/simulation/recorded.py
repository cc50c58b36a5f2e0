"""Simulates the collectives of a recorded profile, and compares recorded and simulated times."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from netsim.foundation.documents import read_shipped
from netsim.foundation.shipped import located
from netsim.simulation.compare import simulate
from netsim.simulation.results import Results
from netsim.workload.kineto.convert import Converted, Recorded
from netsim.workload.kineto.peers import Operation
from netsim.workload.kineto.timeline import exposed, merged, overlap_ns

AGREES = 0.25
"""Least difference, relative to the simulated time, for which a cause is named."""
_LAUNCH_US, _SHARED = 20.0, 0.5
RULES = (
    "Causes, by rule, where the difference is more than 25 % of the simulated time. skew: waiting for other ranks "
    "that is not simulated is more than that. launch bound: moving takes at most 20 µs longer, as long as launches "
    "take. SMs shared: moving takes longer, and kernels compute beside it for at least half of its time. "
    "link bound: moving takes less, so that the simulated links are slower or carry more. Else the difference is "
    "unexplained. Where waiting is unknown (-), it is part of moving. With the profile of one rank alone, waiting of "
    "NCCL is the time by which a collective exceeds the shortest ones of its group and size."
)


class Move(NamedTuple):
    """A collective of one rank, or the mean of `count` such, in microseconds.

    `moving_us` is what its kernels took and `waiting_us` how long they, or those before them, waited for other ranks,
    None if unknown; `beside` is the part of its time in which kernels computed, 0 to 1. `late_us` is the part of
    the simulated time in which it waited.
    """

    kind: str
    ranks: int
    bytes: int
    moving_us: float
    waiting_us: float | None
    beside: float
    simulated_us: float
    late_us: float = 0.0
    count: int = 1

    @property
    def recorded_us(self) -> float:
        """The whole recorded time: moving and waiting."""
        return self.moving_us + (self.waiting_us or 0.0)

    @property
    def cause(self) -> str:
        """Why recorded and simulated time differ, by `RULES`; empty if they agree."""
        most = AGREES * self.simulated_us
        if abs(self.recorded_us - self.simulated_us) <= most:
            return ""
        late_us = 0.0 if self.waiting_us is None else self.late_us
        causes = ["skew"] if (self.waiting_us or 0.0) - late_us > most else []
        more = self.moving_us - (self.simulated_us - late_us)
        if abs(more) > most:
            if more < 0:
                causes.append("link bound")
            elif more <= _LAUNCH_US:
                causes.append("launch bound")
            else:
                causes.append("SMs shared" if self.beside >= _SHARED else "unexplained")
        return " and ".join(causes)


class Comparison(NamedTuple):
    """The collectives of a rank in their order, and its step, whole as recorded and as simulated.

    `exposed_us` is the recorded time of communication without computing at the same time, `waiting_us` the part of it
    spent waiting for other ranks, `late_us` the same part of the simulated time. `results` are those of the simulation.
    """

    fabric: str
    moves: Sequence[Move]
    whole_us: float
    exposed_us: float
    waiting_us: float
    simulated_us: float
    late_us: float
    results: Results

    @property
    def simulated_exposed_us(self) -> float:
        """Exposed communication of the simulated step: all but computing, which takes as long as recorded."""
        return max(0.0, self.simulated_us - (self.whole_us - self.exposed_us))

    @property
    def cause(self) -> str:
        """Why the exposed times differ, by `RULES`."""
        moving = self.exposed_us - self.waiting_us
        beside = _mean(self.moves).beside if self.moves else 0.0
        return Move("", 0, 0, moving, self.waiting_us, beside, self.simulated_exposed_us, self.late_us).cause

    def shares(self) -> tuple[float, float]:
        """Parts of the step that are exposed communication, recorded and simulated."""
        return self.exposed_us / (self.whole_us or 1), self.simulated_exposed_us / (self.simulated_us or 1)

    def kinds(self) -> list[Move]:
        """Means by kind, group size and bytes; the largest total difference comes first."""
        key: Callable[[Move], tuple[str, int, int]] = lambda move: (move.kind, move.ranks, move.bytes)  # noqa: E731
        means = [_mean(list(moves)) for _, moves in groupby(sorted(self.moves, key=key), key)]
        return sorted(means, key=lambda move: -abs(move.count * (move.recorded_us - move.simulated_us)))

    def largest(self) -> list[tuple[int, Move]]:
        """Collectives with their numbers; those that differ most come first."""
        return sorted(enumerate(self.moves), key=lambda one: -abs(one[1].recorded_us - one[1].simulated_us))


def _mean(moves: Sequence[Move]) -> Move:
    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    waits = [move.waiting_us for move in moves if move.waiting_us is not None]
    times = mean([move.moving_us for move in moves]), mean(waits) if waits else None
    beside, simulated = mean([move.beside for move in moves]), mean([move.simulated_us for move in moves])
    return Move(*moves[0][:3], *times, beside, simulated, mean([move.late_us for move in moves]), len(moves))


_Key = tuple[str, tuple[int, ...]]


def compare_recorded(converted: Converted, trace: Path, fabric: Path) -> Comparison:
    """Simulates an imported trace and compares the longest of its profiles with its rank.

    Args:
        converted: What was imported.
        trace: The trace that was written.
        fabric: A topology, or a scenario of which all but the workload is taken, with its first transport and seed.
    """
    results = simulate(_scenario(trace, fabric))
    source = max(converted.recorded, key=lambda one: exposed(one.profile).whole_ns)
    profile, took = source.profile, exposed(source.profile)
    simulated_ps = _simulated_ps(results, source, converted)
    waiting = _waiting_ns(source, converted)
    computing = merged((work.start_ns, work.end_ns) for work in profile.work)
    moves, waits = [], []
    for number, (call, operation) in enumerate(zip(source.calls, source.operations, strict=True)):
        if number not in simulated_ps:
            continue
        waited_ns = waiting.get(number)
        moving_ns = call.kernel_ns - (0 if call.source == "expert" else waited_ns or 0)
        begin_ns = max(call.start_ns, call.end_ns - moving_ns)
        beside = overlap_ns([(begin_ns, call.end_ns)], computing) / max(1, call.end_ns - begin_ns)
        waits += [] if waited_ns is None else [(call.start_ns, begin_ns)]
        about = call.kind, len(operation.ranks), operation.bytes_in or operation.bytes_out
        wait_us = None if waited_ns is None else waited_ns / 1e3
        simulated_us, late_us = (ps / 1e6 for ps in simulated_ps[number])
        moves.append(Move(*about, moving_ns / 1e3, wait_us, beside, simulated_us, late_us))
    waits = merged(waits)
    idle_ns = sum(end - begin for begin, end in waits) - overlap_ns(waits, computing)
    times = took.whole_ns / 1e3, took.exposed_ns / 1e3, idle_ns / 1e3, results.runs[0].completion_ps / 1e6
    if len(converted.recorded) == 1:
        late_us = sum(source.waits.exposed_ns) / 1e3
    else:
        late_us = sum(move.late_us * (1 - move.beside) for move in moves)
    return Comparison(fabric.stem, moves, *times, late_us, results)


def _scenario(trace: Path, fabric: Path) -> Mapping[str, Any]:
    content = read_shipped(fabric, "a topology or scenario", "topologies", "scenarios")
    workload = {"workload": {"kind": "trace", "path": str(trace)}}
    if not isinstance(content, Mapping) or "topology" not in content:
        topology = {"kind": "preset", "name": str(located(fabric, "topologies"))}
        alone = {"format": "flowfabric.scenario/1", "topology": topology, "transports": ["ideal"], "seeds": [0]}
        return {**alone, **workload}
    kept = {key: value for key, value in content.items() if key not in ("workload", "jobs")}
    for key in ("transports", "seeds"):
        if isinstance(kept.get(key), list):
            kept[key] = kept[key][:1]
    return {**kept, **workload}


def _key(operation: Operation, rank: int, converted: Converted) -> _Key:
    """Key that matches a recorded collective with its simulation: name and ranks of the group, or the pair."""
    name = converted.names[operation.group, operation.ranks]
    if operation.peer is None:
        return name, operation.ranks
    return name, (rank, operation.peer) if operation.op == "send" else (operation.peer, rank)


def _simulated_ps(results: Results, source: Recorded, converted: Converted) -> dict[int, tuple[int, int]]:
    """Times of each simulated call from the rank's arrival: to its end there, and to the last rank's arrival."""
    run, src, rank = results.runs[0], results.scene.tasks.columns().src, source.profile.rank
    met: Mapping[_Key, deque[tuple[int, int]]] = defaultdict(deque)
    for number, span in enumerate(results.spans):
        members = tuple(int(src[task]) for task in span.over)
        if rank in members:
            met[str(span.group), members].append((number, members.index(rank)))
    times: dict[int, tuple[int, int]] = {}
    for number, operation in enumerate(source.operations):
        if len(operation.ranks) > 1:
            span, member = met[_key(operation, rank, converted)].popleft()
            come_ps, over_ps = run.members[span][member]
            last_ps = max(come for come, _ in run.members[span]) if operation.peer is None else come_ps
            times[number] = int(over_ps - come_ps), int(last_ps - come_ps)
    return times


def _waiting_ns(source: Recorded, converted: Converted) -> dict[int, int]:
    """How long each call waits for other ranks.

    With several profiles, a call's time beyond the shortest, which is at the rank that comes last; else the waits of
    the profile.
    """
    shortest: dict[tuple[_Key, int], int] = {}
    numbered: list[tuple[int, tuple[_Key, int]]] = []
    seen: Counter[tuple[_Key, int]] = Counter()
    for one in converted.recorded:
        turns: Counter[_Key] = Counter()
        for number, (call, operation) in enumerate(zip(one.calls, one.operations, strict=True)):
            key = _key(operation, one.profile.rank, converted)
            turn = key, turns[key]
            turns[key] += 1
            seen[turn] += 1
            shortest[turn] = min(shortest.get(turn, call.kernel_ns), call.kernel_ns)
            if one is source:
                numbered.append((number, turn))
    waiting = {number: ns for number, ns in enumerate(source.waits.whole_ns) if ns is not None}
    for number, turn in numbered:
        call = source.calls[number]
        if seen[turn] > 1 and call.source != "expert":
            waiting[number] = call.kernel_ns - shortest[turn]
    return waiting
