"""The memory of a rank of any run, without starting it."""

from dataclasses import dataclass, field

from trainer.config.layout import Layout
from trainer.config.run import Flow, RunConfig
from trainer.config.task import OwnTask
from trainer.experiment.memory.activation.passes import DTYPES, record
from trainer.experiment.memory.activation.recording import Change, Event, Recording
from trainer.experiment.memory.peak import StepMemory, step_memory
from trainer.experiment.memory.plan import engine_memory
from trainer.flow.objective import ConsistencyDistillationConfig, OwnObjective, VelocityDistillationConfig
from trainer.model.build import frozen_parameters

DISPATCHES = ("home", "capped", "copies")
"""Dispatch modes in which the rows of a rank are known where tokens are spread evenly."""

_FIRST, _SECOND = 2, 3
"""Sizes of micro batches that are recorded: from 2 examples on, a pass does the same with each."""


def without_estimate(config: RunConfig, layout: Layout) -> str | None:
    """Why the memory of a run is unknown before it runs; None: it is known."""
    if config.engine.compile:
        return "engine.compile: true leaves to the compiler what a block keeps"
    if isinstance(config.task, OwnTask):
        return f"task.class: {config.task.class_path} may call the network in other ways than training does"
    if config.moe is not None and config.moe.dispatch not in DISPATCHES:
        return f"moe.dispatch: {config.moe.dispatch} has as many rows on a rank as the tokens decide"
    if layout.placement is not None and layout.placement.has_replicas:
        return "moe.placement: the tokens decide how many of them a replica serves"
    match config.flow:
        case Flow(objective=(VelocityDistillationConfig() | ConsistencyDistillationConfig()) as chosen):
            return f"flow.objective.kind: {chosen.kind} calls a teacher besides the network that learns"
        case Flow(objective=OwnObjective(class_path=path)):
            return f"flow.objective.class: {path} may call the network in other ways than a built-in one"
    return None


class UnknownMemory(ValueError):  # noqa: N818  it is what was found
    """The memory of a run is not known before it runs; the message says why."""


@dataclass
class Estimator:
    """Estimates one run under several settings; passes that they share are recorded once."""

    _recordings: dict[tuple[object, ...], Recording] = field(default_factory=dict, init=False)

    def memory(self, config: RunConfig, layout: Layout, *, scaled: bool = False) -> StepMemory:
        """The memory of a step, or UnknownMemory; `scaled` passes are put together from smaller micro batches."""
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
        """A recording of a larger micro batch than any that was made."""
        size = layout.micro_batch
        if size <= _SECOND:
            return self._recorded(config, layout, size)
        one, two = (self._recorded(config, layout, number) for number in (_FIRST, _SECOND))
        grown = _grown(one, two, size - _FIRST)
        return self._recorded(config, layout, size) if grown is None else grown


def _grown(one: Recording, two: Recording, times: int) -> Recording | None:
    """A recording whose sizes go on growing as they do from one to another; None: these differ in more than sizes."""
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
