"""The collectives of blocks whose matrices tensor-parallel ranks share (`trainer.model.parallel.tensor_parallel`)."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.protocol import DTYPES, ELEMENT_BYTES, Collective, Phase, Place, all_reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTraffic:
    """Sums over the parts of divided layers.

    A pair of divided layers sums its output in the forward pass and the gradient of its input in the backward pass.
    """

    pairs: int
    summed: Collective

    def inside(self, _phase: Phase, place: Place, /) -> Iterator[Collective]:
        """See the protocol."""
        if isinstance(place, int):
            for _ in range(self.pairs):
                yield self.summed


def tensor_sum(tokens: int, hidden: int, precision: str) -> Collective:
    """A sum over the parts of a divided layer's result; all ranks of the group have the same tokens of a micro step."""
    return all_reduce("tensor", DTYPES[precision], tokens * hidden * ELEMENT_BYTES[precision])
