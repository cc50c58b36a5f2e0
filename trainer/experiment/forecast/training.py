"""One optimiser step of training, with the rollouts before it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from moe.collective_trace import ROLLOUT
from trainer.experiment.forecast.protocol import Collective, EngineTraffic, Operation, Passage, Phase, Place, layer_of
from trainer.experiment.forecast.work import Computation, Work, events


@dataclass(frozen=True, slots=True)
class RolloutCall:
    """Calls of a network that are alike, one after the other.

    Args:
        passage: what the layers send in one of them.
        own: whether the network is the run's own, and not a frozen one.
        computation: what a rank computes in one of them; None: nobody asks.
    """

    passage: Passage
    count: int = 1
    gradient: bool = False
    own: bool = True
    computation: Computation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collecting:
    """Calls in evaluation mode before the first micro step of a cycle.

    The run's own network is taken once, and given back behind the last call. What its engine sends for a call comes
    before the place that needs it. Blocks of a frozen network have no number in a trace.
    """

    calls: tuple[RolloutCall, ...]
    micro_batches: int = 1

    def operations(self, engine: EngineTraffic) -> Iterator[Operation | Work]:
        """The collectives in order, and the computation between them."""
        calls = [call for call in self.calls for _ in range(call.count)] * self.micro_batches
        made = {call: _Made(call) for call in self.calls}
        gathers = iter(engine.evaluating(sum(call.own for call in calls)))
        for call in calls:
            happens = made[call]
            gathered = next(gathers) if call.own else {}
            for place in call.passage.places:
                for event in (*gathered.get(place, ()), *happens.forward[place]):
                    yield _operation(call, place, event)
            for place in reversed(call.passage.places) if call.gradient else ():
                for event in happens.backward[place]:
                    yield _operation(call, place, event)


class _Made:
    """What happens in the passes of a call, made once: the messages of many calls on many ranks fill much memory."""

    def __init__(self, call: RolloutCall) -> None:
        passage, computes = call.passage, call.computation
        self.forward = {place: tuple(events(passage, "forward", place, computes)) for place in passage.places}
        self.backward = {place: tuple(events(passage, "backward", place, computes)) for place in passage.places}


def _operation(call: RolloutCall, place: Place, event: Collective | Work) -> Operation | Work:
    if isinstance(event, Work):
        return event
    return Operation(0, ROLLOUT, layer_of(place) if call.own else None, event)


@dataclass(frozen=True, slots=True)
class LossCall:
    """A call of a network in a loss.

    Attributes:
        own: whether the network is the run's own, whose backward pass follows; else it is a frozen one, which is called
            without gradient.
        computation: of a rank in it; None if not computed.
    """

    passage: Passage
    own: bool = True
    computation: Computation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Forward and backward passes, then the update.

    Attributes:
        calls: of networks in one loss, in their order; the backward passes follow after the last of them, from the last
            call to the first.
        repeats_forward: whether a block computes its forward pass again when its backward pass is due.
        accumulation: micro steps of an optimiser step.
        drawing: exchanges of the ranks while they draw, before the first micro step.
        collecting: rollouts that come before the first micro step; None if absent.
        weighing: exchanges about the weights of what was drawn, behind the rollouts.
        update: computation of a rank in the update, for operations that have it.
    """

    calls: tuple[LossCall, ...]
    engine: EngineTraffic
    repeats_forward: bool = False
    accumulation: int = 1
    drawing: tuple[Collective, ...] = ()
    collecting: Collecting | None = None
    weighing: tuple[Collective, ...] = ()
    update: Work | None = None

    def operations(self) -> Iterator[Operation]:
        since = Work()
        for event in self._events():
            if isinstance(event, Work):
                since += event
            elif self.update is None:
                yield event
            else:
                yield replace(event, flops=since.flops, memory_bytes=since.memory_bytes)
                since = Work()

    def _events(self) -> Iterator[Operation | Work]:
        """Collectives, and what is computed between them."""
        for collective in self.drawing:
            yield Operation(0, "forward", None, collective)
        if self.collecting is not None:
            yield from self.collecting.operations(self.engine)
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

    def _micro_step(self, micro: int) -> Iterator[Operation | Work]:
        own = [call for call in self.calls if call.own]
        for call in self.calls:
            for place in call.passage.places:
                if call.own:
                    yield from self._place(call, "forward", place, micro)
                    continue
                for event in events(call.passage, "forward", place, call.computation):
                    yield event if isinstance(event, Work) else Operation(micro, "forward", None, event)
        for number, call in reversed(list(enumerate(own))):
            for place in reversed(call.passage.places):
                yield from self._place(call, "backward", place, micro, ends=number == 0)

    def _place(
        self, call: LossCall, phase: Phase, place: Place, micro: int, *, ends: bool = True
    ) -> Iterator[Operation | Work]:
        """A pass through a place; gradients are whole once the last backward pass of a loss ends there."""
        layer = layer_of(place)
        repeats = self.repeats_forward and phase == "backward" and layer is not None
        for collective in self.engine.entering(phase, place, micro):
            yield Operation(micro, phase, layer, collective)
        for again in ("forward", phase) if repeats else (phase,):
            for event in events(call.passage, again, place, call.computation):
                yield event if isinstance(event, Work) else Operation(micro, phase, layer, event)
        for collective in self.engine.leaving(phase, place, micro) if ends else ():
            yield Operation(micro, phase, layer, collective)
