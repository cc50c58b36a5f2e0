"""Replay of a recorded or computed collective trace: each rank's program, in its order, with its gaps.

Where a trace has work and no gaps, a device computes it.
"""

from array import array
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from netsim.collective.columns import message_columns
from netsim.foundation.refusal import Refusal
from netsim.workload.device import Device, DeviceConfig, Product, Work
from netsim.workload.matching import check_and_combine, matching_key, with_gaps_of
from netsim.workload.program import Program, Span, TraceOrigin
from netsim.workload.protocol import Schedules, WorkloadSection
from netsim.workload.records import Record, Trace, read_trace

Line = tuple[int, Record]


class TraceConfig(WorkloadSection):
    """Section ``workload`` of kind ``trace``.

    Args:
        path: A collective trace, relative to the working directory.
        steps: Optimiser steps to replay, one after the other.
        gaps: A second trace of equal structure, whose gaps of computation replace the gaps of this trace.
        device: Device that computes where the trace has work and no gaps: a name, such as h100, or the peaks of your
            own device.
    """

    kind: Literal["trace"]
    path: str
    gaps: str | None = None
    device: Device | None = None
    steps: Literal["all"] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = "all"


class TraceWorkload:
    """The workload of a `TraceConfig`.

    A rank arrives at a record when its last synchronous record has ended at that rank, asynchronous records whose wait
    lies before it have ended too, and its gap of computation has passed; a null gap counts as 0. From then on the rank
    sends its messages of that collective as soon as it has received the data for them. It does not wait for the arrival
    of other ranks, except in a barrier. A message that arrives before its receiver does waits there. A record ends at a
    rank when the rank has arrived and all messages from it and to it have arrived. Groups of one rank move nothing:
    only their gaps count, which pass beside the asynchronous records under way.

    The k-th record of a group at one rank and the k-th at another are the same collective; sends and receives are
    matched in order for each sender, receiver and tag. Step, phase and layer of a collective are those in the record of
    its group's first rank, or of the sender.
    """

    def __init__(self, config: TraceConfig) -> None:
        self.notices: list[str] = []
        self._path = Path(config.path)
        self._steps = config.steps
        self._gaps = None if config.gaps is None else Path(config.gaps)
        self._device = config.device

    @cached_property
    def trace(self) -> Trace:
        """The records to replay."""
        trace = read_trace(self._path)
        if self._gaps is not None:
            trace = with_gaps_of(trace, read_trace(self._gaps))
        if isinstance(self._steps, str):
            return trace
        missing = sorted(set(self._steps) - set(trace.header.steps))
        if missing:
            held = ", ".join(map(str, trace.header.steps))
            raise Refusal(self._path, "line 1: steps", f"lacks step {missing[0]}", f"ask for steps among {held}")
        chosen = [[line for line in program if line[1].step in self._steps] for program in trace.programs]
        return trace._replace(programs=chosen)

    def size(self, available: int) -> int:  # noqa: ARG002
        """Number of ranks, whatever is available."""
        return self.trace.header.world_size

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        program.recorded_ps |= _recorded_ps(self.trace)
        header = self.trace.header
        steps = header.steps if isinstance(self._steps, str) else self._steps
        program.traces.append(TraceOrigin(self.trace.sha256, header.config_sha256, tuple(sorted(steps))))
        replay = _Replay(self.trace, program, ranks, schedules, self._device)
        if self._device is not None:
            self._check_work()
            times = self._device.computed(
                _work(record) for lines in self.trace.programs for _, record in lines if record.gap_ns is None
            )
            program.computed += times
            self.notices += self._device.notices(times)
        replay.run(start_ps)

    def _check_work(self) -> None:
        """Refuses a device if the trace has no work for it; the message differs if the trace has gaps instead."""
        records = [record for program in self.trace.programs for _, record in program]
        if any(record.flops is not None or record.memory_bytes is not None for record in records):
            return
        if any(record.gap_ns is not None for record in records):
            problem = "changes nothing: the trace has gaps of computation, and no work from which to compute others"
            raise Refusal(self._path, "device", problem, "leave the device out")
        remedy = "write it with python -m trainer trace --work, or leave the device out"
        raise Refusal(self._path, "device", "has nothing to compute: the trace says no work (flops)", remedy)


def _work(record: Record) -> Work:
    products = tuple(Product(*one) for one in record.products or ())
    return Work(record.flops or 0, record.memory_bytes or 0, products)


def _recorded_ps(trace: Trace) -> dict[int, int]:
    """Duration of each step until the end of its last collective at the last rank, if the trace has times."""
    records = [record for program in trace.programs for _, record in program]
    if trace.header.source != "recorded" or any(record.t_done_ns is None for record in records):
        return {}
    ends_ps: dict[int, int] = defaultdict(int)
    for record in records:
        ends_ps[record.step] = max(ends_ps[record.step], 1000 * (record.t_done_ns or 0))
    return dict(ends_ps)


class _Gathering:
    """One collective: the ranks that have arrived, and for each the task at which the collective ends there."""

    def __init__(self) -> None:
        self.come: dict[int, tuple[int, Line]] = {}
        self.over: dict[int, int] = {}
        self.waiting: list[int] = []


class _Outstanding(NamedTuple):
    gathering: _Gathering
    wait_seq: int


class _Cursor:
    """Progress in the layout of a rank's program."""

    def __init__(self, program: Sequence[Line], start: int) -> None:
        self.lines = deque(program)
        self.ready = [start]
        self.current: _Gathering | None = None
        self.outstanding: list[_Outstanding] = []
        self.gap_ps = 0
        self.met: dict[tuple[str | int, ...], int] = {}


class _Replay:
    """Turns the ranks' programs into tasks; a rank proceeds until it needs a collective that is not complete yet."""

    def __init__(
        self,
        trace: Trace,
        program: Program,
        ranks: Sequence[int],
        schedules: Schedules,
        device: DeviceConfig | None = None,
    ) -> None:
        self._trace, self._program, self._ranks, self._schedules = trace, program, ranks, schedules
        self._device = device
        self._gatherings: dict[tuple[str | int, ...], _Gathering] = {}

    def run(self, start_ps: int) -> None:
        """Adds all tasks."""
        start = self._program.wait(self._ranks[0], (), start_ps)
        cursors = [_Cursor(lines, start) for lines in self._trace.programs]
        runnable = deque(range(len(cursors)))
        while runnable:
            rank = runnable.popleft()
            runnable += self._advance(rank, cursors[rank])
        for rank, cursor in enumerate(cursors):
            stuck = [cursor.current, *(pending.gathering for pending in cursor.outstanding)]
            for gathering in stuck:
                if gathering is not None and not gathering.over:
                    self._refuse(rank, gathering)
            self._compute(rank, cursor)

    def _advance(self, rank: int, cursor: _Cursor) -> list[int]:
        """Lays out a rank's records until it must wait; returns the ranks that this unblocks."""
        freed: list[int] = []
        while cursor.lines:
            _, record = cursor.lines[0]
            awaited = [] if cursor.current is None else [cursor.current]
            if cursor.outstanding:
                awaited += [pending.gathering for pending in cursor.outstanding if pending.wait_seq <= record.seq]
            if awaited and cursor.current is None:
                self._compute(rank, cursor)
            for gathering in awaited:
                if not gathering.over:
                    gathering.waiting.append(rank)
                    return freed
            if cursor.current is not None:
                cursor.ready = []
                cursor.current = None
            for gathering in awaited:
                cursor.ready.append(gathering.over[rank])
            if cursor.outstanding:
                cursor.outstanding = [pending for pending in cursor.outstanding if pending.wait_seq > record.seq]
            freed += self._come(rank, cursor, cursor.lines.popleft())
        return freed

    def _come(self, rank: int, cursor: _Cursor, line: Line) -> list[int]:
        """Processes the arrival of a rank at a record; the last arrival unblocks the ranks that wait for it."""
        _, record = line
        cursor.gap_ps += self._computed_ps(record, overlaps=bool(cursor.outstanding))
        if record.size1:
            return []
        come = self._program.wait(self._ranks[rank], cursor.ready, cursor.gap_ps)
        cursor.gap_ps = 0
        cursor.ready = [come]
        key = matching_key(record)
        turn = cursor.met[key] = cursor.met.get(key, -1) + 1
        gathering = self._gatherings.setdefault((*key, turn), _Gathering())
        gathering.come[rank] = come, line
        if record.wait_seq is None:
            cursor.current = gathering
        else:
            cursor.outstanding.append(_Outstanding(gathering, record.wait_seq))
        if len(gathering.come) < len(self._members(record)):
            return []
        self._carry_out(gathering)
        return gathering.waiting

    def _compute(self, rank: int, cursor: _Cursor) -> None:
        """Adds the computing since the last arrival. It overlaps collectives for which the rank waits next."""
        if cursor.gap_ps:
            cursor.ready = [self._program.wait(self._ranks[rank], cursor.ready, cursor.gap_ps)]
            cursor.gap_ps = 0

    def _computed_ps(self, record: Record, *, overlaps: bool) -> int:
        """Computation before a record: its gap or, without one, the device's time for its work."""
        if record.gap_ns is not None or self._device is None:
            return 1000 * (record.gap_ns or 0)
        alone_ps = self._device.compute_ps(_work(record))
        return round(alone_ps * self._device.contention) if overlaps else alone_ps

    def _members(self, record: Record) -> Sequence[int]:
        if record.peer is not None:
            return (record.rank, record.peer) if record.op == "send" else (record.peer, record.rank)
        return self._trace.header.groups[record.group]

    def _carry_out(self, gathering: _Gathering) -> None:
        """Adds the messages of a collective at which all ranks have arrived."""
        _, (_, any_record) = next(iter(gathering.come.values()))
        members = self._members(any_record)
        operation = check_and_combine(self._trace.path, [gathering.come[rank][1] for rank in members])
        come = [gathering.come[rank][0] for rank in members]
        ranks = [self._ranks[member] for member in members]
        messages = message_columns(self._schedules(operation, ranks))
        over = self._program.carry_out(messages, ranks, come)
        gathering.over = dict(zip(members, over, strict=True))
        _, record = gathering.come[members[0]][1]
        about = (operation.op, record.group, len(members), record.step, record.phase, record.layer)
        self._program.spans.append(Span(*about, messages.payload, array("q", come), over))

    def _refuse(self, rank: int, gathering: _Gathering) -> None:
        number, record = gathering.come[rank][1]
        absent = next(member for member in self._members(record) if member not in gathering.come)
        problem = f"rank {rank} waits in {record.op} on group {record.group} for rank {absent}, which never comes"
        remedy = "the trace is cut off or inconsistent: record or compute it again"
        raise Refusal(self._trace.path, f"line {number}: group", problem, remedy)
