"""One optimiser step of training."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Phase, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """Forward and backward passes, then the update; see :class:`trainer.trace.formula.protocol.Program`.

    Args:
        passage: what the layers send.
        engine: what the engine sends.
        repeats_forward: whether a block computes its forward pass again when its backward pass is due.
        accumulation: micro steps of an optimiser step.
        drawing: what the ranks exchange while they draw a step, before its first micro step.
    """

    passage: Passage
    engine: EngineTraffic
    repeats_forward: bool = False
    accumulation: int = 1
    drawing: tuple[Collective, ...] = ()

    def operations(self) -> Iterator[Operation]:
        """See the protocol."""
        for collective in self.drawing:
            yield Operation(0, "forward", None, collective)
        way = self.passage.places
        for micro in range(self.accumulation):
            for place in way:
                yield from self._place("forward", place, micro)
            for place in reversed(way):
                yield from self._place("backward", place, micro)
        for collective in self.engine.update():
            yield Operation(self.accumulation - 1, "optimizer", None, collective)

    def _place(self, phase: Phase, place: Place, micro: int) -> Iterator[Operation]:
        layer = layer_of(place)
        repeats = self.repeats_forward and phase == "backward" and layer is not None
        for collectives in (
            self.engine.entering(phase, place, micro),
            self.passage.inside("forward", place) if repeats else (),
            self.passage.inside(phase, place),
            self.engine.leaving(phase, place, micro),
        ):
            for collective in collectives:
                yield Operation(micro, phase, layer, collective)
