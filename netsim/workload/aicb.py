"""Workloads of AICB and SimAI: a step of training, whose ranks all go through the same layers and back.

AICB writes the text (aliyun/aicb, SimAI_training_workload_generator.py), and SimAI's ASTRA-sim reads it (aliyun/SimAI,
Workload.cc): a header, the number of layers, then twelve columns a layer.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from netsim.collective.columns import message_columns
from netsim.collective.protocol import Operation
from netsim.foundation.lines import MOST, read_lines, whole_number
from netsim.foundation.refusal import Refusal, nearest
from netsim.foundation.units import split_bytes
from netsim.workload.collective import Collective, operation
from netsim.workload.program import Program, Span
from netsim.workload.protocol import Schedules, WorkloadSection
from netsim.workload.records import MOST_RANKS

KINDS = ("HYBRID_TRANSFORMER_FWD_IN_BCKWD", "HYBRID_TRANSFORMER")
"""First word of a header: forward and backward through layers, input gradients before weight gradients."""
_DEGREES = {"model_parallel_NPU_group": "tp", "ep": "ep", "pp": "pp", "all_gpus": "all_gpus"}
_RECOMPUTING = ("checkpoints", "checkpoint_initiates")
_KEYS = (*_DEGREES, *_RECOMPUTING, "vpp", "ga", "pp_comm")
_COLUMNS = 12
_PHASES = (("forward", "tp"), ("input gradient", "tp"), ("weight gradient", "dp"))
"""Columns of a layer, three each, and the groups that their collectives concern if their names do not say."""
_GROUPS = {"_DP_EP": "dp_ep", "_EP": "ep"}
_OPERATIONS: dict[str, Collective] = {
    "ALLREDUCE": "all_reduce",
    "ALLGATHER": "all_gather",
    "REDUCESCATTER": "reduce_scatter",
    "ALLTOALL": "all_to_all",
    "BROADCAST": "broadcast",
}


class Exchange(NamedTuple):
    """A collective in every group of a kind (tp, dp, ep or dp_ep).

    `bytes` is a rank's whole buffer: what goes in and, of an all_gather, what comes out.
    """

    op: Collective
    group: str
    bytes: int


class Phase(NamedTuple):
    """Computing of a layer, and the collective that follows; None: there is none."""

    compute_ns: int
    exchange: Exchange | None


class Layer(NamedTuple):
    """A line of the file; the rank computes for `process_ns` after each of its collectives."""

    forward: Phase
    input_gradient: Phase
    weight_gradient: Phase
    process_ns: int


class TrainingStep(NamedTuple):
    """A whole file: ranks in a group of each parallelism; `all_gpus` is None where the header does not say."""

    tp: int
    ep: int
    pp: int
    all_gpus: int | None
    layers: list[Layer]


def read_step(path: Path) -> TrainingStep:
    """Reads and checks a workload text."""
    lines = read_lines(path, "a workload text of AICB")
    degrees = dict(_degrees(path, lines[0]))
    if "tp" not in degrees:
        raise Refusal(path, "line 1: model_parallel_NPU_group", "is missing", "add it, with its number behind")
    if len(lines) == 1:
        raise Refusal(path, "line 2", "is missing", "complete the file: number of layers, then the layers")
    expected = whole_number(path, "line 2: number of layers", lines[1].strip(), least=1)
    layers = [_layer(path, number, line.split()) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    if len(layers) != expected:
        problem = f"says {expected} layers, and {len(layers)} follow"
        raise Refusal(path, "line 2", problem, "complete the file if it is cut off, or correct the number")
    return TrainingStep(degrees["tp"], degrees.get("ep", 1), degrees.get("pp", 1), degrees.get("all_gpus"), layers)


def _degrees(path: Path, line: str) -> Iterator[tuple[str, int]]:
    """The degrees of parallelism in the header, as (name, ranks)."""
    kind, *words = line.split() or [""]
    if kind not in KINDS:
        raise Refusal(path, "line 1", f"begins with no known kind of workload ({kind!r:.40})", f"write {KINDS[0]}")
    seen = set[str]()
    for word, value in zip(words[::2], words[1::2], strict=False):
        key = word.removesuffix(":")
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            remedy = f"write {near}" if near else f"keys are {', '.join(_KEYS)}"
            raise Refusal(path, "line 1", f"has an unknown key ({key!r:.40})", remedy)
        if key in seen:
            raise Refusal(path, f"line 1: {key}", "occurs twice", "remove one")
        seen.add(key)
        if key in _RECOMPUTING and value != "0":
            problem = f"asks to compute layers again, which is not read ({value!r:.40})"
            raise Refusal(path, f"line 1: {key}", problem, "write 0, and add the time to input gradients")
        if key in _DEGREES:
            degree = whole_number(path, f"line 1: {key}", value, least=1)
            if degree > MOST_RANKS:
                raise Refusal(path, f"line 1: {key}", f"is too large ({degree})", f"{MOST_RANKS:,} are possible")
            yield _DEGREES[key], degree
    if len(words) % 2:
        raise Refusal(path, "line 1", f"has a key without its number ({words[-1]!r:.40})", "add it, or remove the key")


def _layer(path: Path, number: int, cells: list[str]) -> Layer:
    place = f"line {number}"
    if len(cells) != _COLUMNS:
        problem = f"has {len(cells)} columns instead of {_COLUMNS}"
        raise Refusal(path, place, problem, "complete the file if it is cut off, or write it again with AICB")
    forward, input_gradient, weight_gradient = (
        _phase(path, f"{place}: {name}", cells[first : first + 3], groups)
        for (name, groups), first in zip(_PHASES, (2, 5, 8), strict=True)
    )
    process_ns = whole_number(path, f"{place}: process time", cells[-1])
    return Layer(forward, input_gradient, weight_gradient, process_ns)


def _phase(path: Path, place: str, cells: list[str], groups: str) -> Phase:
    time, exchange, size = cells
    compute_ns, size_bytes = whole_number(path, f"{place} time", time), whole_number(path, f"{place} size", size)
    return Phase(compute_ns, _exchange(path, place, exchange, groups, size_bytes))


def _exchange(path: Path, place: str, name: str, groups: str, size_bytes: int) -> Exchange | None:
    """A collective by its name, in the groups that its suffix names, or else in `groups`; None: nothing moves."""
    if name == "NONE":
        return None
    suffix = next((suffix for suffix in _GROUPS if name.endswith(suffix)), "")
    op = _OPERATIONS.get(name.removesuffix(suffix))
    if op is None:
        remedy = f"write NONE, or one of {', '.join(_OPERATIONS)}, with _EP or _DP_EP behind it for those groups"
        raise Refusal(path, place, f"names no known collective ({name!r:.40})", remedy)
    return Exchange(op, _GROUPS.get(suffix, groups), size_bytes) if size_bytes else None


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
        """The task of each rank after which it computes for `_passed_ps`."""
        self._passed_ps = 0
        self._left: list[int] = []
        """The task of each rank that ends its last collective of a weight gradient."""

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
