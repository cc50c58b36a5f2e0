"""One optimiser step of training."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.trace.formula.collecting import Collecting
from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Phase, Place
from trainer.trace.formula.work import Computation, Work, events


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
        """See the protocol."""
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
