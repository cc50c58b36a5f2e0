"""One optimiser step of training."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer.trace.formula.collecting import Collecting
from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Phase, Place
from trainer.trace.formula.work import Computation, Work


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
        computation: what a rank computes, for operations that say so; None: they do not.
    """

    calls: tuple[LossCall, ...]
    engine: EngineTraffic
    repeats_forward: bool = False
    accumulation: int = 1
    drawing: tuple[Collective, ...] = ()
    collecting: Collecting | None = None
    weighing: tuple[Collective, ...] = ()
    computation: Computation | None = None

    def operations(self) -> Iterator[Operation]:
        """See the protocol."""
        since = Work()
        for event in self._events():
            if isinstance(event, Work):
                since += event
            elif self.computation is None:
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
            if number == gathers and self.computation is not None:
                yield self.computation.update
            yield Operation(self.accumulation - 1, "optimizer", None, collective)

    def _micro_step(self, micro: int) -> Iterator[Operation | Work]:
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
    ) -> Iterator[Operation | Work]:
        """A pass through a place; gradients are whole once the last backward pass of a loss ends there."""
        layer = layer_of(place)
        repeats = self.repeats_forward and phase == "backward" and layer is not None
        for collective in self.engine.entering(phase, place, micro):
            yield Operation(micro, phase, layer, collective)
        for again in ("forward", phase) if repeats else (phase,):
            for event in self._inside(passage, again, place):
                yield event if isinstance(event, Work) else Operation(micro, phase, layer, event)
        for collective in self.engine.leaving(phase, place, micro) if ends else ():
            yield Operation(micro, phase, layer, collective)

    def _inside(self, passage: Passage, phase: Phase, place: Place) -> Iterator[Collective | Work]:
        """What the layers of a place send, and compute in between.

        Experts compute in the middle of the exchanges of tokens: between their way there and back. What else a block
        computes comes before its exchanges in a forward pass and behind them in a backward pass, in equal parts before
        the sums over divided layers.
        """
        sent = list(passage.inside(phase, place))
        computes = self.computation
        if computes is None:
            yield from sent
            return
        exchanges = [n for n, one in enumerate(sent) if one.exchange is not None and "int" not in one.exchange.dtype]
        middle = exchanges[len(exchanges) // 2] if exchanges else len(sent)
        sums = [number for number, one in enumerate(sent) if one.exchange is None and one.group == "tensor"]
        dense = computes.dense(phase, place)
        late = phase == "backward" and bool(exchanges)
        if not sums and not late:
            yield dense
        for number, collective in enumerate(sent):
            if number in sums:
                yield Work(dense.flops // len(sums), dense.memory_bytes // len(sums))
            if number == middle:
                yield computes.mixture(phase, place)
            yield collective
        if middle == len(sent):
            yield computes.mixture(phase, place)
        if not sums and late:
            yield dense
