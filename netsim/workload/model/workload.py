"""A training step of a model: what the ranks of each pipeline stage send and compute, laid out as one program.

All ranks of a stage do the same, so that tasks are made for all at once.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from netsim.collective.columns import MessageColumns, message_columns
from netsim.collective.protocol import Operation
from netsim.workload.device import DeviceConfig, Work
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.network import Computation, Network
from netsim.workload.model.sharding import (
    Awaited,
    Event,
    Full,
    Handle,
    Phase,
    Place,
    Sends,
    Sent,
    Sharding,
    Weights,
    Whole,
)
from netsim.workload.program import Program, Span
from netsim.workload.protocol import Schedules

_BACKWARD = 2
"""Products of a backward pass to one forward: the gradient of each factor."""
_GATE_BYTES, _COUNT_BYTES = 4, 8
"""Bytes of a token's weight for an expert, and of a number of tokens."""


class Issued(NamedTuple):
    """A collective at its place in the program of every rank of a stage.

    `beside` is computed since the last one and before the ranks wait for earlier ones, `work` behind that. `awaited` is
    the number of the collective, or the end of the step, before which the ranks wait for it, None: they wait at once.
    """

    micro: int
    phase: str
    layer: int | None
    group: str
    operation: Operation
    peer: int | None
    beside: Work
    work: Work
    awaited: int | None


Where = tuple[int, str, int | None]


def issued(config: ModelConfig, stage: int) -> tuple[list[Issued], Work]:
    """The collectives of a stage in order, and the work of its ranks after the last collective."""
    operations: list[Issued] = []
    under_way: dict[Handle, int] = {}
    beside = since = Work()
    for where, event in _Stage(config, stage).events():
        match event:
            case Work():
                since += event
            case Awaited(start):
                for handle in [one for one in under_way if one[: len(start)] == start]:
                    number = under_way.pop(handle)
                    operations[number] = operations[number]._replace(awaited=len(operations))
                    beside, since = beside + since, Work()
            case Sent():
                if operations and operations[-1].awaited == len(operations):
                    beside, since = beside + since, Work()
                if event.handle is not None:
                    under_way[event.handle] = len(operations)
                awaited = len(operations) + 1 if event.until_next else None
                operations.append(Issued(*where, event.group, event.operation, event.peer, beside, since, awaited))
                beside = since = Work()
    for number in under_way.values():
        operations[number] = operations[number]._replace(awaited=len(operations))
    return operations, beside + since


class _Stage:
    """The passes of a stage through its places, microbatch after microbatch."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        self._config, self._stage, self._last = config, stage, config.division.pipeline - 1
        network = Network.of(config, config.division.tensor)
        count = config.layers // config.division.pipeline
        self._weights: Weights = {
            "before": network.before if stage == 0 else (),
            **dict.fromkeys(range(stage * count, (stage + 1) * count), network.block),
            "after": network.after if stage == self._last else (),
        }
        self._sends, computation = Sends(config), Computation(config)
        self._block, self._experts = computation.block, computation.experts
        self._around = computation.around((*self._weights["before"], *self._weights["after"]))
        sharding = Full if config.sharded == "full" else Whole
        self._sharding: Sharding = sharding(config, self._weights, network.experts)

    def events(self) -> Iterator[tuple[Where, Event]]:
        micros = self._config.microbatches
        ahead = min(self._last - self._stage, micros)
        for turn in range(micros + ahead):
            if turn < micros:
                yield from self._pass("forward", turn)
            if turn >= ahead:
                yield from self._pass("backward", turn - ahead)
        yield from (((micros - 1, "optimizer", None), event) for event in self._sharding.update())

    def _pass(self, phase: Phase, micro: int) -> Iterator[tuple[Where, Event]]:
        """Events of a pass: receives from the stage before, computes, sends on; a backward pass in reverse order."""
        places, ahead = list(self._weights), 1 if phase == "forward" else -1
        yield from (((micro, phase, None), event) for event in self._message("recv", phase, self._stage - ahead, micro))
        for place in places[::ahead]:
            where = micro, phase, place if isinstance(place, int) else None
            yield from ((where, event) for event in self._sharding.entering(phase, place))
            yield from ((where, event) for event in self._inside(phase, place))
            if phase == "backward" and micro == self._config.microbatches - 1:
                yield from ((where, event) for event in self._sharding.leaving(place))
        yield from (((micro, phase, None), event) for event in self._message("send", phase, self._stage + ahead, micro))

    def _message(self, op: str, phase: Phase, peer: int, micro: int) -> Iterator[Event]:
        if 0 <= peer <= self._last:
            size_bytes = self._config.tokens * self._config.hidden * self._config.activation_bytes
            handle = ("send", phase, micro) if op == "send" else None
            yield Sent("pipeline", Operation(op, 2, (size_bytes,)), peer, handle)

    def _inside(self, phase: Phase, place: Place) -> Iterator[Event]:
        if place == "after":
            yield self._around if phase == "forward" else self._around.times(_BACKWARD)
        elif place != "before":
            if phase == "backward" and self._config.recompute:
                yield from self._of_block("forward")
            yield from self._of_block(phase)

    def _of_block(self, phase: Phase) -> Iterator[Event]:
        """Work and collectives of a block: experts compute between dispatch and combine of the tokens."""
        times = 1 if phase == "forward" else _BACKWARD
        dense, experts, config = self._block.times(times), self._experts.times(times), self._config
        if config.division.tensor > 1:
            size_bytes = config.tokens * config.hidden * config.activation_bytes
            for _ in ("attention", "feed-forward"):
                yield dense.part(2)
                for one in self._sends.all_reduce("tensor", size_bytes):
                    yield one._replace(until_next=phase == "backward")
            return
        row = config.hidden * config.activation_bytes
        if phase == "forward":
            yield dense
            yield from self._sends.parts("all_gather", "expert", (config.experts or 0) * _COUNT_BYTES)
        yield from self._exchange(row + (_GATE_BYTES if phase == "forward" else 0), home=False)
        yield experts
        yield from self._exchange(row + (_GATE_BYTES if phase == "backward" else 0), home=True)
        if phase == "backward":
            yield dense

    def _exchange(self, row_bytes: int, *, home: bool) -> Iterator[Event]:
        """All-to-all of tokens to experts or `home`, even over the ranks; the rest goes to the next ranks in order."""
        ranks = self._sends.ranks["expert"]
        if ranks > 1:
            each, left = divmod(self._config.tokens * self._config.top_k, ranks)
            sent = [row_bytes * (each + (ahead < left)) for ahead in range(ranks)]
            way = -1 if home else 1
            rows = range(ranks)
            matrix = tuple(tuple(sent[way * (to - at) % ranks] for to in rows) for at in rows)
            yield Sent("expert", Operation("all_to_all", ranks, matrix=matrix))


class ModelWorkload:
    """The workload of a `ModelConfig`; ranks wait, and compute, as in the replay of a trace."""

    def __init__(self, config: ModelConfig) -> None:
        self.notices: list[str] = []
        self._config = config

    def size(self, available: int) -> int:  # noqa: ARG002
        """Number of ranks, whatever is available."""
        return self._config.stage_ranks * self._config.division.pipeline

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        steps = [issued(self._config, stage) for stage in range(self._config.division.pipeline)]
        if self._config.device is None:
            self.notices.append("computation takes no time, since workload.device is not set")
        else:
            works = [
                work
                for step, behind in steps
                for work in (*(part for one in step for part in (one.beside, one.work)), behind)
            ]
            times = self._config.device.computed(works)
            program.computed += times
            self.notices += self._config.device.notices(times)
        _Layout(self._config, program, ranks, schedules).run(steps, start_ps)


@dataclass(eq=False)
class _Gathering:
    """Collectives of all ranks of one stage or two at once: tasks of arrival and of the end, by stage."""

    come: dict[int, np.ndarray] = field(default_factory=dict)
    over: dict[int, np.ndarray] = field(default_factory=dict)


class _Cursor:
    """Progress in the layout of a stage."""

    def __init__(self, stage: int, program: tuple[list[Issued], Work], ranks: np.ndarray, start: int) -> None:
        self.stage, self.ranks, self.next = stage, ranks, 0
        self.issued, self.behind = program
        self.ready = [np.full(len(ranks), start)]
        self.current: _Gathering | None = None
        self.outstanding: list[tuple[int, _Gathering]] = []
        self.ended = False


class _Layout:
    """Turns the programs of the stages into tasks; a stage proceeds until it needs a message that has not been sent."""

    def __init__(self, config: ModelConfig, program: Program, ranks: Sequence[int], schedules: Schedules) -> None:
        self._config, self._program, self._schedules = config, program, schedules
        self._ranks = np.array(ranks).reshape(config.division.pipeline, config.stage_ranks)
        self._device: DeviceConfig | None = config.device
        self._messages: defaultdict[tuple[int, int], list[_Gathering]] = defaultdict(list)
        self._repeated: dict[tuple[int, int, int], tuple[MessageColumns, MessageColumns]] = {}

    def run(self, steps: Sequence[tuple[list[Issued], Work]], start_ps: int) -> None:
        """Adds all tasks of the steps of each stage."""
        start = self._program.wait(int(self._ranks[0, 0]), (), start_ps)
        cursors = [_Cursor(stage, step, self._ranks[stage], start) for stage, step in enumerate(steps)]
        while not all(cursor.ended for cursor in cursors):
            for cursor in cursors:
                self._advance(cursor)

    def _advance(self, cursor: _Cursor) -> None:
        """Lays out a stage until it must wait for another one."""
        while not cursor.ended:
            awaited = [gathering for until, gathering in cursor.outstanding if until <= cursor.next]
            current = [] if cursor.current is None else [cursor.current]
            if not all(cursor.stage in gathering.over for gathering in (*current, *awaited)):
                return
            ready = [gathering.over[cursor.stage] for gathering in current] or cursor.ready
            beside = None if cursor.next == len(cursor.issued) else cursor.issued[cursor.next].beside
            if beside is not None and beside != Work():
                ready = [self._program.arrive(cursor.ranks, ready, self._computed_ps(beside, bool(cursor.outstanding)))]
            ready = [*ready, *(gathering.over[cursor.stage] for gathering in awaited)]
            cursor.outstanding = [one for one in cursor.outstanding if one[0] > cursor.next]
            cursor.ended = cursor.next == len(cursor.issued)
            one = None if cursor.ended else cursor.issued[cursor.next]
            work = cursor.behind if one is None else one.work
            come = self._program.arrive(cursor.ranks, ready, self._computed_ps(work, bool(cursor.outstanding)))
            cursor.ready, cursor.current, cursor.next = [come], None, cursor.next + 1
            if one is not None:
                self._come(cursor, one, come)

    def _computed_ps(self, work: Work, overlaps: bool) -> int:
        if self._device is None:
            return 0
        alone_ps = self._device.compute_ps(work)
        return round(alone_ps * self._device.contention) if overlaps else alone_ps

    def _come(self, cursor: _Cursor, one: Issued, come: np.ndarray) -> None:
        """A stage arrives at a collective; a message is added when the second of its two stages arrives."""
        gathering, stage = _Gathering(), cursor.stage
        if one.peer is None:
            gathering.come[stage] = come
            self._carry_out(one, gathering, members_of(self._config, one.group, one.operation.size), [stage])
        else:
            sends = one.operation.op == "send"
            waiting = self._messages[(stage, one.peer) if sends else (one.peer, stage)]
            if waiting and stage not in waiting[0].come:
                gathering = waiting.pop(0)
            else:
                waiting.append(gathering)
            gathering.come[stage] = come
            if len(gathering.come) == 2:
                pairs = np.arange(2 * len(come)).reshape(2, -1).T
                message = one._replace(operation=one.operation._replace(op="send"))
                self._carry_out(message, gathering, pairs, [stage, one.peer] if sends else [one.peer, stage])
        if one.awaited is None:
            cursor.current = gathering
        else:
            cursor.outstanding.append((one.awaited, gathering))

    def _carry_out(self, one: Issued, gathering: _Gathering, members: np.ndarray, stages: Sequence[int]) -> None:
        """Adds the messages of the collective in every group; groups with equal schedules are added together."""
        ranks = self._ranks[stages].ravel()
        come = np.concatenate([gathering.come[stage] for stage in stages])
        over, size, first = np.empty_like(come), one.operation.size, stages[0] * len(members)
        alone = one.peer is not None or len(members) * len(self._ranks) == 1
        for groups, messages in self._by_schedule(one.operation, ranks[members]):
            chosen = members[groups].ravel()
            over[chosen] = self._program.carry_out(messages, ranks[chosen], come[chosen], len(groups))
            payload = messages.payload // len(groups)
            for group in groups:
                name = one.group if alone else f"{one.group}_{first + group}"
                tasks = (array("q", part[members[group]].tobytes()) for part in (come, over))
                about = one.operation.op, name, size, 1, one.phase, one.layer, payload
                self._program.spans.append(Span(*about, *tasks))
        gathering.over = dict(zip(stages, over.reshape(len(stages), -1), strict=True))

    def _by_schedule(self, operation: Operation, ranks: np.ndarray) -> Iterator[tuple[list[int], MessageColumns]]:
        """Numbers of groups whose schedules differ in delays alone, and their messages; `ranks` is [groups, size]."""
        by_schedule: dict[tuple[int, int], tuple[list[int], list[MessageColumns]]] = {}
        for group, of_group in enumerate(ranks.tolist()):
            messages = message_columns(self._schedules(operation, of_group))
            groups, alike = by_schedule.setdefault((id(messages.shape), id(messages.bytes)), ([], []))
            groups.append(group)
            alike.append(messages)
        for groups, alike in by_schedule.values():
            yield groups, self._together(alike, operation.size)

    def _together(self, alike: Sequence[MessageColumns], size: int) -> MessageColumns:
        one, delays = alike[0], [messages.delay_ps for messages in alike if messages.delay_ps is not None]
        key = id(one.shape), id(one.bytes), len(alike)
        if key not in self._repeated:
            self._repeated[key] = one, one.repeated(len(alike), size)
        repeated = self._repeated[key][1]
        return repeated.delayed(np.concatenate(delays)) if delays else repeated


def members_of(config: ModelConfig, group: str, size: int) -> np.ndarray:
    """[groups, size] ranks of a stage, counted from its first rank, in each group of a kind."""
    stride = {"data": config.division.tensor, "expert_data": config.division.expert}.get(group, 1)
    return np.arange(config.stage_ranks).reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)
