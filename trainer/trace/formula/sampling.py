"""The drawing of samples by a trained network."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.passes import Passage, layer_of
from trainer.trace.formula.protocol import Collective, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Calls of a network one after another; see :class:`trainer.trace.formula.protocol.Program`.

    Each call is a forward pass in evaluation mode, and a micro step of the trace. Weights are
    where they are used: a dense network is whole on every rank, or the ranks share its matrices. A head that is called
    by itself sends nothing.

    Args:
        passage: what the layers send in a call.
        calls: of the network, one or more.
        collected: what puts together the samples of all ranks after the last call.
    """

    passage: Passage
    calls: int
    collected: Collective

    def call(self) -> Iterator[tuple[int | None, Collective]]:
        """The collectives of one call in order, each with its block."""
        for place in self.passage.places:
            yield from ((layer_of(place), collective) for collective in self.passage.inside("forward", place))

    def operations(self) -> Iterator[Operation]:
        """See the protocol; the calls share their collectives, whose sizes fill much memory on many ranks."""
        of_a_call = list(self.call())
        for number in range(self.calls):
            for layer, collective in of_a_call:
                yield Operation(number, "forward", layer, collective)
        yield Operation(self.calls - 1, "forward", None, self.collected)
