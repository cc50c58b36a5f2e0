"""What blocks send whose matrices are divided over tensor-parallel ranks; see :mod:`trainer.model.tensor_parallel`."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.trace.formula.protocol import DTYPES, ELEMENT_BYTES, Collective, Phase, Place, all_reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTraffic:
    """Sums over the parts of divided layers; see :class:`trainer.trace.formula.protocol.LayerTraffic`.

    A pair of divided layers sums its output in the forward pass and the gradient of its input in the backward pass.

    Args:
        pairs: divided pairs of a block.
        tokens: tokens of a rank and micro step, the same ones on all ranks of the group.
        hidden: width of a token.
        precision: element type of tokens, fp32 or bf16.
    """

    pairs: int
    tokens: int
    hidden: int
    precision: str

    def inside(self, _phase: Phase, place: Place, /) -> Iterator[Collective]:
        """See the protocol."""
        if isinstance(place, int):
            size = self.tokens * self.hidden * ELEMENT_BYTES[self.precision]
            for _ in range(self.pairs):
                yield all_reduce("tensor", DTYPES[self.precision], size)
