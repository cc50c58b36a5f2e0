"""One optimiser step of training."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.collecting import Collecting
from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Phase, Place


@dataclass(frozen=True, slots=True)
class LossCall:
    """A call of a network in a loss.

    Args:
        passage: what the layers send.
        own: whether the network is the run's own, whose backward pass follows; else it is a frozen one, which is called
            without gradient.
    """

    passage: Passage
    own: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Forward and backward passes, then the update; see :class:`trainer.trace.formula.protocol.Program`.

    Args:
        calls: of networks in one loss, in their order; the backward passes follow after the last of them, from the last
            call to the first.
        engine: what the engine sends.
        repeats_forward: whether a block computes its forward pass again when its backward pass is due.
        accumulation: micro steps of an optimiser step.
        drawing: what the ranks exchange while they draw, before the first micro step.
        collecting: rollouts that come before the first micro step; None: there are none.
        weighing: what the ranks tell each other of the weights of what they drew, behind the rollouts.
    """

    calls: tuple[LossCall, ...]
    engine: EngineTraffic
    repeats_forward: bool = False
    accumulation: int = 1
    drawing: tuple[Collective, ...] = ()
    collecting: Collecting | None = None
    weighing: tuple[Collective, ...] = ()

    def operations(self) -> Iterator[Operation]:
        """See the protocol."""
        for collective in self.drawing:
            yield Operation(0, "forward", None, collective)
        if self.collecting is not None:
            yield from self.collecting.operations(self.engine)
        for collective in self.weighing:
            yield Operation(0, "forward", None, collective)
        for micro in range(self.accumulation):
            yield from self._micro_step(micro)
        for collective in self.engine.update():
            yield Operation(self.accumulation - 1, "optimizer", None, collective)

    def _micro_step(self, micro: int) -> Iterator[Operation]:
        own = [call.passage for call in self.calls if call.own]
        for call in self.calls:
            if not call.own:
                yield from (Operation(micro, "forward", None, collective) for _, collective in call.passage.forward())
                continue
            for place in call.passage.places:
                yield from self._place(call.passage, "forward", place, micro)
        for number, passage in reversed(list(enumerate(own))):
            for place in reversed(passage.places):
                yield from self._place(passage, "backward", place, micro, ends=number == 0)

    def _place(
        self, passage: Passage, phase: Phase, place: Place, micro: int, *, ends: bool = True
    ) -> Iterator[Operation]:
        """A pass through a place; gradients are whole once the last backward pass of a loss ends there."""
        layer = layer_of(place)
        repeats = self.repeats_forward and phase == "backward" and layer is not None
        for collectives in (
            self.engine.entering(phase, place, micro),
            passage.inside("forward", place) if repeats else (),
            passage.inside(phase, place),
            self.engine.leaving(phase, place, micro) if ends else (),
        ):
            for collective in collectives:
                yield Operation(micro, phase, layer, collective)
