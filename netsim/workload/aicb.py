"""Workloads of AICB and SimAI: a step of training, whose ranks all go through the same layers and back."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from netsim.collective.columns import message_columns
from netsim.collective.protocol import Operation
from netsim.foundation.lines import MOST
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import split_bytes
from netsim.workload.aicb_text import Exchange, Phase, TrainingStep, read_step
from netsim.workload.collective import operation
from netsim.workload.program import Program, Span
from netsim.workload.protocol import Schedules, WorkloadSection

Groups = dict[str, list[list[int]]]
"""Ranks of every group, by kind."""


class AicbConfig(WorkloadSection):
    """Section ``workload`` of kind ``aicb``.

    Args:
        path: A workload file of AICB, in the text format that SimAI reads, relative to the working directory.
        compute_scale: Factor by which the computation times of the file are multiplied; 0: communication alone.
    """

    kind: Literal["aicb"]
    path: str
    compute_scale: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 1.0


def groups_of(tp: int, ep: int, pp: int, ranks: int) -> Groups:
    """Groups of ranks that are numbered by tensor, then expert, then other data parallelism, then stage."""
    grid = np.arange(ranks).reshape(pp, -1, ep, tp)
    stages = grid.reshape(pp, -1, tp)
    rows = {"tp": grid, "ep": np.moveaxis(grid, 2, 3), "dp_ep": np.moveaxis(grid, 1, 3), "dp": stages.swapaxes(1, 2)}
    return {kind: axes.reshape(-1, axes.shape[-1]).tolist() for kind, axes in rows.items()}


def operation_of(exchange: Exchange, size: int) -> Operation:
    """The collective of an exchange as an operation of `size` ranks."""
    if exchange.op == "all_gather":
        return Operation(exchange.op, size, blocks=tuple(split_bytes(exchange.bytes, size)))
    return operation(exchange.op, size, exchange.bytes)


class AicbWorkload:
    """The workload of an `AicbConfig`; its rank i is the job's rank i.

    A collective runs in every group of its kind: those of forward computing and of input gradients in groups of tensor
    parallelism, those of weight gradients in groups of data parallelism, unless the name ends in _EP or _DP_EP. Groups
    of one rank, and collectives without bytes, take no time.

    Every rank goes through the layers forwards. It computes, takes part in the collective of the layer, and goes on
    when that has ended at this rank. Then it goes through them backwards: the input gradient likewise, then the
    computing of the weight gradient, whose collective goes on beside the layers before. Collectives of weight gradients
    follow each other at a rank. The time in the last column passes after each collective; after those of weight
    gradients beside what follows.

    So SimAI reads it, with these differences. There a rank has one collective at a time; here one of a weight gradient
    goes on beside others and shares their links. SimAI enlarges what is below 4,096 B forwards, adds a nanosecond from
    state to state, skips broadcasts, which here go from a group's first rank, and has groups of data parallelism across
    the stages of a pipeline.
    """

    def __init__(self, config: AicbConfig) -> None:
        self._path = Path(config.path)
        self._scale = config.compute_scale
        self.notices: list[str] = []

    @cached_property
    def step(self) -> TrainingStep:
        """The content of the file."""
        return read_step(self._path)

    def size(self, available: int) -> int:
        """Number of ranks, at most those available; all available ranks where the file does not say."""
        tp, ep, pp, all_gpus, _ = self.step
        ranks = all_gpus or available
        if ranks > available:
            problem = f"there are {ranks}, the job has {available} ranks"
            raise Refusal(self._path, "line 1: all_gpus", problem, "enlarge the topology or the job's ranks")
        if ranks % (tp * pp * ep):
            problem = f"{ranks} ranks are no multiple of tensor {tp} x pipeline {pp} x expert {ep}"
            raise Refusal(self._path, "line 1", problem, "correct model_parallel_NPU_group, pp, ep or all_gpus")
        self._refuse_overflow(ranks)
        self.notices = [f"{self._path}: {text}" for text in self._deviations(ranks, available)]
        return ranks

    def extend(self, program: Program, ranks: Sequence[int], start_ps: int, schedules: Schedules) -> None:
        tp, ep, pp, _, layers = self.step
        layout = _Layout(program, ranks, schedules, groups_of(tp, ep, pp, len(ranks)), self._scale)
        layout.begin(start_ps)
        numbered = list(enumerate(layers))
        for number, layer in numbered:
            layout.advance(layer.forward, layer.process_ns, ("forward", number))
        for number, layer in reversed(numbered):
            layout.advance(layer.input_gradient, layer.process_ns, ("backward", number))
            layout.leave(layer.weight_gradient, layer.process_ns, ("backward", number))
        layout.finish()

    def _phases(self) -> list[Phase]:
        return [phase for layer in self.step.layers for phase in layer[:3]]

    def _refuse_overflow(self, ranks: int) -> None:
        compute_ns = int(self._scale * sum(phase.compute_ns for phase in self._phases()))
        process_ns = 3 * sum(layer.process_ns for layer in self.step.layers)
        if 1000 * (compute_ns + process_ns) >= MOST:
            raise Refusal(self._path, "file", f"all times together are too long ({compute_ns} ns)", "shorten them")
        size_bytes = sum(phase.exchange.bytes for phase in self._phases() if phase.exchange)
        if 4 * ranks * size_bytes >= MOST:
            raise Refusal(self._path, "file", f"all sizes together are too large ({size_bytes} B)", "shorten it")

    def _deviations(self, ranks: int, available: int) -> Iterator[str]:
        tp, ep, pp, _, _ = self.step
        if ranks < available:
            yield f"{ranks} ranks on a fabric of {available}: the first {ranks} are used"
        if pp > 1:
            yield f"{pp} stages, each with all layers of the file: what goes between them, and its bubble, is left out"
        sizes = {kind: len(groups[0]) for kind, groups in groups_of(tp, ep, pp, ranks).items()}
        kinds = [phase.exchange.group for phase in self._phases() if phase.exchange]
        for kind in dict.fromkeys(kind for kind in kinds if sizes[kind] == 1):
            yield f"{kinds.count(kind)} collectives in groups {kind} of one rank move nothing"


Place = tuple[str, int]
"""Direction and number of a layer."""


class _Layout:
    """The tasks of all ranks. Ranks arrive at every collective in equal order, after equal computing."""

    def __init__(
        self, program: Program, ranks: Sequence[int], schedules: Schedules, groups: Groups, scale: float
    ) -> None:
        self._program, self._ranks, self._schedules, self._groups = program, ranks, schedules, groups
        self._scale = scale
        self._here: list[int] = []
        """For each rank the task after which it computes for `_passed_ps`."""
        self._passed_ps = 0
        self._left: list[int] = []
        """For each rank the task that ends its last collective of a weight gradient."""

    def begin(self, start_ps: int) -> None:
        """Adds the start of all ranks."""
        self._here = [self._program.wait(self._ranks[0], (), start_ps)] * len(self._ranks)

    def advance(self, phase: Phase, process_ns: int, place: Place) -> None:
        """Adds computing and a collective whose end all ranks wait for."""
        self._passed_ps += round(1000 * self._scale * phase.compute_ns)
        exchange = self._moving(phase)
        if exchange is not None:
            self._here = self._carry_out(exchange, self._come(), place)
            self._passed_ps = 1000 * process_ns

    def leave(self, phase: Phase, process_ns: int, place: Place) -> None:
        """Adds computing and a collective for which no rank waits."""
        self._passed_ps += round(1000 * self._scale * phase.compute_ns)
        exchange = self._moving(phase)
        if exchange is not None:
            come = self._come()
            self._left = self._carry_out(exchange, self._wait(0, come, self._left) if self._left else come, place)
            self._wait(1000 * process_ns, self._left)

    def finish(self) -> None:
        """Adds the computing behind the last collective that is waited for."""
        self._come()

    def _moving(self, phase: Phase) -> Exchange | None:
        """The collective of a phase, if its groups have more than one rank."""
        exchange = phase.exchange
        return exchange if exchange is not None and len(self._groups[exchange.group][0]) > 1 else None

    def _come(self) -> list[int]:
        """Adds the computing so far; returns for each rank the task that ends it."""
        if self._passed_ps:
            self._here = self._wait(self._passed_ps, self._here)
            self._passed_ps = 0
        return self._here

    def _wait(self, delay_ps: int, *after: Sequence[int]) -> list[int]:
        """Adds for each rank a task that ends `delay_ps` after its tasks in `after`."""
        rows = zip(self._ranks, *after, strict=True)
        return [self._program.wait(rank, tasks, delay_ps) for rank, *tasks in rows]

    def _carry_out(self, exchange: Exchange, come: Sequence[int], place: Place) -> list[int]:
        """Adds a collective in all groups of its kind; returns for each rank the task that ends it."""
        over = [0] * len(come)
        for number, members in enumerate(self._groups[exchange.group]):
            ranks, arrivals = [self._ranks[member] for member in members], [come[member] for member in members]
            messages = message_columns(self._schedules(operation_of(exchange, len(members)), ranks))
            ends = self._program.carry_out(messages, ranks, arrivals)
            about = (exchange.op, f"{exchange.group}_{number}", len(members), None, *place)
            self._program.spans.append(Span(*about, messages.payload, arrivals, ends))
            for member, task in zip(members, ends, strict=True):
                over[member] = task
        return over
