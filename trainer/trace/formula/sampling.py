"""The drawing of samples by a trained network."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.passes import Passage
from trainer.trace.formula.protocol import Collective, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Calls of a network one after another, a program of the formula.

    Each call is a forward pass in evaluation mode, and a micro step of the trace. Weights are where they are used: a
    dense network is whole on every rank, or the ranks share its matrices. A head that is called by itself sends
    nothing. `collected` puts together the samples of all ranks after the last call.
    """

    passages: tuple[Passage, ...]
    collected: Collective

    @property
    def calls(self) -> int:
        """Calls of the network."""
        return len(self.passages)

    def call(self) -> Iterator[tuple[int | None, Collective]]:
        """The collectives of the first call in order, each with its block; no call sends more."""
        return self.passages[0].forward()

    def operations(self) -> Iterator[Operation]:
        """See the protocol; calls that are alike share their collectives, which fill much memory on many ranks."""
        made = {passage: list(passage.forward()) for passage in dict.fromkeys(self.passages)}
        for number, passage in enumerate(self.passages):
            for layer, collective in made[passage]:
                yield Operation(number, "forward", layer, collective)
        yield Operation(self.calls - 1, "forward", None, self.collected)
