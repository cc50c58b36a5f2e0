"""What a task sends while it collects what the steps of a cycle learn from: the phase rollout of a trace."""

from collections.abc import Iterator
from dataclasses import dataclass

from moe.collective_trace import ROLLOUT
from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, EngineTraffic, Operation, Place


@dataclass(frozen=True, slots=True)
class RolloutCall:
    """Calls of a network that are alike, one after the other.

    Args:
        passage: what the layers send in one of them.
        count: how many.
        gradient: whether a backward pass follows each.
        own: whether the network is the run's own, and not a frozen one.
    """

    passage: Passage
    count: int = 1
    gradient: bool = False
    own: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Collecting:
    """Calls in evaluation mode before the first micro step of a cycle.

    The run's own network is taken once, and given back behind the last call. What its engine sends for a call comes
    before the place that needs it. Blocks of a frozen network have no number in a trace.

    Args:
        calls: of one micro batch, in their order.
        micro_batches: of a rank in all steps of the cycle.
    """

    calls: tuple[RolloutCall, ...]
    micro_batches: int = 1

    def operations(self, engine: EngineTraffic) -> Iterator[Operation]:
        """The collectives in order.

        Args:
            engine: of the run's own network.
        """
        calls = [call for call in self.calls for _ in range(call.count)] * self.micro_batches
        made = {passage: _Sent(passage) for passage in {call.passage for call in calls}}
        gathers = iter(engine.evaluating(sum(call.own for call in calls)))
        for call in calls:
            sent = made[call.passage]
            gathered = next(gathers) if call.own else {}
            for place in call.passage.places:
                for collective in (*gathered.get(place, ()), *sent.forward[place]):
                    yield _operation(call, place, collective)
            for place in reversed(call.passage.places) if call.gradient else ():
                for collective in sent.backward[place]:
                    yield _operation(call, place, collective)


class _Sent:
    """What the layers send in a pass, made once: the messages of many calls on many ranks fill much memory."""

    def __init__(self, passage: Passage) -> None:
        self.forward = {place: tuple(passage.inside("forward", place)) for place in passage.places}
        self.backward = {place: tuple(passage.inside("backward", place)) for place in passage.places}


def _operation(call: RolloutCall, place: Place, collective: Collective) -> Operation:
    return Operation(0, ROLLOUT, layer_of(place) if call.own else None, collective)
