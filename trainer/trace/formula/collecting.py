"""What a task sends while it collects what the steps of a cycle learn from: the phase rollout of a trace."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe.collective_trace import ROLLOUT
from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Place
from trainer.trace.formula.work import Computation, Work, events


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
