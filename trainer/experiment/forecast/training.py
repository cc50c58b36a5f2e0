"""One optimiser step of training, with the rollouts before it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from moe.collective_trace import ROLLOUT
from trainer.experiment.forecast.protocol import (
    Awaited,
    Collective,
    EngineTraffic,
    Operation,
    Passage,
    Phase,
    Place,
    layer_of,
)
from trainer.experiment.forecast.work import Computation, Work, events

Event = Operation | Work | Awaited


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the run's own network, or of a frozen one.

    Attributes:
        gradient: whether a backward pass follows; in a loss, it follows every call of the own network and no other.
    """

    passage: Passage
    own: bool = True
    gradient: bool = False
    computation: Computation | None = None

    def events(self, phase: Phase) -> dict[Place, tuple[Collective | Work, ...]]:
        """Collectives and computation in each place of a pass."""
        return {place: tuple(events(self.passage, phase, place, self.computation)) for place in self.passage.places}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collecting:
    """Calls in evaluation mode before the first micro step of a cycle.

    The run's own network is taken once, and given back after the last call. Its engine's collectives for a call come
    before the place that needs them. Blocks of a frozen network have no number in a trace.
    """

    calls: tuple[Call, ...]
    micro_batches: int = 1

    def events(self, engine: EngineTraffic) -> Iterator[Event]:
        """The collectives in order, and the computation between them; those of equal calls are made once."""
        calls = self.calls * self.micro_batches
        forward, backward = ({call: call.events(phase) for call in set(self.calls)} for phase in get_args(Phase))
        gathers = iter(engine.evaluating(sum(call.own for call in calls)))
        for call in calls:
            gathered, there, back = next(gathers) if call.own else {}, forward[call], backward[call]
            for place in call.passage.places:
                for event in (*gathered.get(place, ()), *there[place]):
                    yield _operation(call, place, event)
            for place in reversed(call.passage.places) if call.gradient else ():
                for event in back[place]:
                    yield _operation(call, place, event)


def _operation(call: Call, place: Place, event: Collective | Awaited | Work) -> Event:
    if not isinstance(event, Collective):
        return event
    return Operation(0, ROLLOUT, layer_of(place) if call.own else None, event)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Forward and backward passes, then the update.

    The backward passes of a loss follow its last call, in reverse order of the calls. Before the first micro step come
    the exchanges of the draws, the rollouts, and the exchanges of weights. If `update` is known, each operation carries
    the computation before it.
    """

    calls: tuple[Call, ...]
    engine: EngineTraffic
    repeats_forward: bool = False
    accumulation: int = 1
    drawing: tuple[Collective, ...] = ()
    collecting: Collecting | None = None
    weighing: tuple[Collective, ...] = ()
    update: Work | None = None

    def operations(self) -> Iterator[Operation]:
        """Yields the operations; a collective with a handle is awaited at its `Awaited`, or at the end of the step.

        A collective with `until_next` is awaited before the next one.
        """
        issued: list[Operation] = []
        under_way: dict[int, int] = {}
        since = Work()
        for event in self._events():
            match event:
                case Work():
                    since += event
                case Awaited(handles):
                    for handle in handles:
                        number = under_way.pop(handle)
                        issued[number] = replace(issued[number], awaited=len(issued))
                case Operation():
                    if event.collective.handle is not None:
                        under_way[event.collective.handle] = len(issued)
                    elif event.collective.until_next:
                        event = replace(event, awaited=len(issued) + 1)
                    if self.update is not None:
                        event = replace(event, **since.fields())
                        since = Work()
                    issued.append(event)
        for one in issued:
            never = one.collective.handle is not None and one.awaited is None
            yield replace(one, awaited=len(issued)) if never else one

    def _events(self) -> Iterator[Event]:
        """Yields the collectives, the computation between them, and the points where they are awaited."""
        for collective in self.drawing:
            yield Operation(0, "forward", None, collective)
        if self.collecting is not None:
            yield from self.collecting.events(self.engine)
        for collective in self.weighing:
            yield Operation(0, "forward", None, collective)
        for micro in range(self.accumulation):
            yield from self._micro_step(micro)
        update = list(self.engine.update())
        gathers = next((n for n, one in enumerate(update) if one.op == "all_gather"), len(update))
        for number, collective in enumerate(update):
            if number == gathers and self.update is not None:
                yield self.update
            yield Operation(self.accumulation - 1, "optimizer", None, collective)

    def _micro_step(self, micro: int) -> Iterator[Event]:
        learn = [call for call in self.calls if call.gradient]
        for call in self.calls:
            for place in call.passage.places:
                if call.gradient:
                    yield from self._place(call, "forward", place, micro)
                    continue
                for event in events(call.passage, "forward", place, call.computation):
                    yield event if isinstance(event, Work) else Operation(micro, "forward", None, event)
        for number, call in reversed(list(enumerate(learn))):
            for place in reversed(call.passage.places):
                yield from self._place(call, "backward", place, micro, ends=number == 0)

    def _place(self, call: Call, phase: Phase, place: Place, micro: int, *, ends: bool = True) -> Iterator[Event]:
        """Yields the events of a pass through a place; with `ends`, also the engine's collectives behind it."""
        layer = layer_of(place)
        repeats = self.repeats_forward and phase == "backward" and layer is not None
        for event in self.engine.entering(phase, place, micro):
            yield Operation(micro, phase, layer, event) if isinstance(event, Collective) else event
        for again in ("forward", phase) if repeats else (phase,):
            for event in events(call.passage, again, place, call.computation):
                yield event if isinstance(event, Work) else Operation(micro, phase, layer, event)
        for event in self.engine.leaving(phase, place, micro) if ends else ():
            yield Operation(micro, phase, layer, event) if isinstance(event, Collective) else event
