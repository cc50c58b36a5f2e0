"""The memory of a rank of any run, without starting it."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.config.layout import Layout
from trainer.config.run import Flow, RunConfig
from trainer.config.sections import FSDPConfig
from trainer.config.task import OwnTask
from trainer.experiment.forecast.fsdp import FSDPMemory, Unit
from trainer.experiment.forecast.partitions import Partition, optimizer_groups
from trainer.experiment.forecast.passes import DTYPES, record
from trainer.experiment.forecast.peak import StepMemory, step_memory
from trainer.experiment.forecast.protocol import ELEMENT_BYTES, FLOAT32, EngineMemory, Moment
from trainer.experiment.forecast.recording import Change, Event, Recording
from trainer.experiment.forecast.zero import ZeroMemory
from trainer.experiment.forecast.zero3 import Zero3Memory
from trainer.flow.objective import ConsistencyDistillation, OwnObjective, VelocityDistillation
from trainer.model.build import frozen_parameters


def engine_memory(
    config: RunConfig, layout: Layout, recording: Recording, *, copies_input: bool = False
) -> EngineMemory:
    """Memory of the engine of a run, on the rank that holds most.

    `copies_input`: whether a reduction makes a copy of what it sums up, as gloo does under ZeRO 3 and FSDP.
    """
    engine, parameters, ranks = config.engine, recording.parameters, layout.data_parallel
    element_bytes = ELEMENT_BYTES[engine.precision]
    if isinstance(engine, FSDPConfig):
        places = [*range(config.model.num_layers), "before"]
        return FSDPMemory(
            units=[Unit([one.shape for one in parameters if one.place == place], ranks) for place in places],
            element_bytes=element_bytes,
            reshard_after_forward=engine.reshard_after_forward,
            copies_input=copies_input,
        )
    sum_bytes = FLOAT32 if layout.accumulation > 1 else element_bytes
    if engine.zero_stage == 3:
        return Zero3Memory(
            sizes=tuple(one.size for one in parameters),
            moments=[one for one in (*recording.forward, *recording.backward) if isinstance(one, Moment)],
            num_ranks=ranks,
            element_bytes=element_bytes,
            sum_bytes=sum_bytes,
            bucket_elements=engine.bucket_elements,
            copies_input=copies_input,
        )
    rates = [config.optim.rate_of(one.name) for one in parameters]
    partitions = _partitions(layout, recording, rates)
    return ZeroMemory(
        stage=engine.zero_stage,
        partitions=partitions,
        ranks=_fullest(layout, partitions),
        owner=_owner(recording, partitions, rates),
        element_bytes=element_bytes,
        sum_bytes=sum_bytes,
        bucket_elements=engine.bucket_elements,
        overlaps=engine.precision == "bf16",
    )


def _partitions(layout: Layout, recording: Recording, rates: Sequence[float]) -> tuple[Partition, ...]:
    num_ranks = {"data": layout.data_parallel, "expert_data": layout.expert_data_parallel}
    rated = list(zip(recording.parameters, rates, strict=True))
    dense, experts = ([(one.size, rate) for one, rate in rated if one.is_expert == are] for are in (False, True))
    groups = optimizer_groups(dense, experts)
    return tuple(Partition(group=group, num_ranks=num_ranks[group.group]) for group in groups)


def _owner(
    recording: Recording, partitions: tuple[Partition, ...], rates: Sequence[float]
) -> tuple[tuple[int, int], ...]:
    """Returns for each parameter the number of its partition, and its index in that partition."""
    free: dict[tuple[bool, float], deque[tuple[int, int]]] = defaultdict(deque)
    for index, partition in enumerate(partitions):
        group = partition.group
        free[group.group == "expert_data", group.rate] += [(index, place) for place in range(len(group.sizes))]
    return tuple(free[one.is_expert, rate].popleft() for one, rate in zip(recording.parameters, rates, strict=True))


def _fullest(layout: Layout, partitions: tuple[Partition, ...]) -> tuple[int, ...]:
    """Finds the rank whose parts touch parameters of most elements; returns its number in each partition's group."""

    def numbers(rank: int) -> tuple[int, ...]:
        return tuple(rank if one.group.group == "data" else rank // layout.expert_parallel for one in partitions)

    def touched(rank: int) -> int:
        shares = zip(partitions, numbers(rank), strict=True)
        return sum(one.group.sizes[place] for one, number in shares for place in one.touched(number))

    return numbers(max(range(layout.data_parallel), key=touched))


DISPATCHES = ("home", "capped", "copies")
"""Dispatch modes in which the rows of a rank are known where tokens are spread evenly."""

_FIRST, _SECOND = 2, 3
"""Sizes of micro batches that are recorded: from 2 examples on, a pass does the same with each."""


def without_estimate(config: RunConfig, layout: Layout) -> str | None:
    """The reason why a run's memory cannot be computed before it runs; None if it can."""
    if config.engine.compile:
        return "engine.compile: true leaves to the compiler what a block keeps"
    if isinstance(config.task, OwnTask):
        return f"task.class: {config.task.class_path} may call the network differently than training does"
    if config.moe is not None and config.moe.dispatch not in DISPATCHES:
        return f"moe.dispatch: {config.moe.dispatch} has as many rows on a rank as the tokens decide"
    if layout.placement is not None and layout.placement.has_replicas:
        return "moe.placement: the tokens decide how many of them a replica serves"
    match config.flow:
        case Flow(objective=(VelocityDistillation() | ConsistencyDistillation()) as chosen):
            return f"flow.objective.kind: {chosen.kind} calls a teacher besides the network that learns"
        case Flow(objective=OwnObjective(class_path=path)):
            return f"flow.objective.class: {path} may call the network differently than a built-in one"
    return None


class UnknownMemory(ValueError):  # noqa: N818  it is what was found
    """The memory of a run is not known in advance; the message says why."""


@dataclass
class Estimator:
    """Estimates one run under several settings; passes that they share are recorded once."""

    _recordings: dict[tuple[object, ...], Recording] = field(default_factory=dict, init=False)

    def memory(self, config: RunConfig, layout: Layout, *, scaled: bool = False) -> StepMemory:
        """Returns the memory of a step, or raises UnknownMemory; `scaled`: extrapolated from smaller micro batches."""
        missing = without_estimate(config, layout)
        if missing is not None:
            raise UnknownMemory(missing)
        try:
            recording = self._scaled(config, layout) if scaled else self._recorded(config, layout, layout.micro_batch)
        except RuntimeError as error:  # torch's, where an operation needs values; a user's own part may raise others
            reason = str(error).partition("\n")[0]
            raise UnknownMemory(f"a loss cannot be computed without values: {reason}") from error
        engine = engine_memory(config, layout, recording)
        frozen = frozen_parameters(config) * DTYPES[config.engine.precision].itemsize
        return step_memory(recording, engine, layout.accumulation, frozen=frozen)

    def _recorded(self, config: RunConfig, layout: Layout, micro_batch: int) -> Recording:
        engine = config.engine
        settings = (engine.precision, engine.activation_checkpointing, layout.tensor_parallel, layout.expert_parallel)
        key = (*settings, micro_batch)
        if key not in self._recordings:
            self._recordings[key] = record(config, layout, micro_batch)
        return self._recordings[key]

    def _scaled(self, config: RunConfig, layout: Layout) -> Recording:
        """Returns a recording of the micro batch; a large one is extrapolated from two smaller ones."""
        size = layout.micro_batch
        if size <= _SECOND:
            return self._recorded(config, layout, size)
        one, two = (self._recorded(config, layout, number) for number in (_FIRST, _SECOND))
        grown = _grown(one, two, size - _FIRST)
        return self._recorded(config, layout, size) if grown is None else grown


def _grown(one: Recording, two: Recording, times: int) -> Recording | None:
    """Returns `one`, its sizes grown by `times` the difference to `two`; None: these differ in more than sizes."""
    forward = _grown_events(one.forward, two.forward, times)
    backward = _grown_events(one.backward, two.backward, times)
    if forward is None or backward is None:
        return None
    return Recording(one.parameters, one.drawn + times * (two.drawn - one.drawn), forward, backward, one.kinds)


def _grown_events(one: tuple[Event, ...], two: tuple[Event, ...], times: int) -> tuple[Event, ...] | None:
    if len(one) != len(two):
        return None
    grown: list[Event] = []
    for first, second in zip(one, two, strict=True):
        if isinstance(first, Change) and isinstance(second, Change) and first.storage == second.storage:
            grown.append(Change(first.storage, first.size + times * (second.size - first.size)))
        elif first == second:
            grown.append(first)
        else:
            return None
    return tuple(grown)
