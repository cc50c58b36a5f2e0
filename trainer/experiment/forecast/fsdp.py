"""What FSDP2 sends, whose ranks keep rows of every parameter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    Collective,
    Phase,
    Place,
    all_gather,
    all_reduce,
    reduce_scatter,
)

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FSDPTraffic:
    """A gathering and a reduction of each block and of what belongs to none.

    In the backward pass a block's parameters are gathered while the block behind it computes. The rows of a parameter
    are divided evenly, the last parts filled up. What has no parameters, since they are frozen, sends nothing.

    Attributes:
        blocks: shapes of the parameters of each block.
        root: shapes of the parameters that belong to no block.
        num_ranks: ranks of the group data; one alone gathers and reduces nothing.
        precision: element type of gathered parameters, fp32 or bf16; gradients are reduced in float32.
        reshard_after_forward: whether blocks let go of their parameters after their forward pass.
        accumulation: micro steps of an optimiser step; the last one reduces the gradients.
        tensor_parallel: ranks that share the blocks, whose parts of the norm are added up.
    """

    blocks: tuple[Shapes, ...]
    root: Shapes
    num_ranks: int
    precision: str
    reshard_after_forward: bool = True
    accumulation: int = 1
    tensor_parallel: int = 1

    def entering(self, phase: Phase, place: Place, _micro: int, /) -> Iterator[Collective]:
        if self.num_ranks == 1:
            return
        if phase == "forward":
            if place != "after" and self._rows(place):
                yield self._gathered(place)
        elif self.reshard_after_forward and place != "before":
            for block in self._asked_for(place):
                yield self._gathered(block)

    def leaving(self, phase: Phase, place: Place, micro: int, /) -> Iterator[Collective]:
        reduces = self.num_ranks > 1 and micro == self.accumulation - 1
        if reduces and phase == "backward" and place != "after" and self._rows(place):
            yield reduce_scatter("data", "float32", self._rows(place) * ELEMENT_BYTES["fp32"], self.num_ranks)

    def evaluating(self, calls: int, /) -> Iterator[Mapping[Place, Sequence[Collective]]]:
        """What belongs to no block is whole throughout, and so are blocks that keep parameters."""
        places: tuple[Place, ...] = () if self.num_ranks == 1 else ("before", *range(len(self.blocks)))
        first: dict[Place, Sequence[Collective]] = {
            place: (self._gathered(place),) for place in places if self._rows(place)
        }
        later: dict[Place, Sequence[Collective]] = {
            place: sent for place, sent in first.items() if self.reshard_after_forward and place != "before"
        }
        yield from (later if number else first for number in range(calls))

    def update(self) -> Iterator[Collective]:
        """The norm of the gradient."""
        if self.tensor_parallel > 1:
            yield all_reduce("tensor", "float32", 4)
        yield all_reduce("data", "float32", 4)

    def _asked_for(self, place: Place) -> Iterator[int]:
        """The blocks that are gathered as the backward pass reaches a place.

        That is the one before it that has parameters, or the place's own where nothing behind it has gathered it.
        """
        number = len(self.blocks) if place == "after" else place
        assert isinstance(number, int)
        own = number < len(self.blocks)
        if (
            own
            and self._rows(number)
            and not self.root
            and not any(map(self._rows, range(number + 1, len(self.blocks))))
        ):
            yield number
        if self._rows(number) if own else self.root:
            yield from [block for block in range(number) if self._rows(block)][-1:]

    def _gathered(self, place: Place) -> Collective:
        size = self._rows(place) * ELEMENT_BYTES[self.precision]
        return all_gather("data", DTYPES[self.precision], size, self.num_ranks)

    def _rows(self, place: Place) -> int:
        """Elements of a rank's rows of the parameters of a block or of the rest."""
        shapes = self.blocks[place] if isinstance(place, int) else self.root
        return sum(-(-shape[0] // self.num_ranks) * prod(shape[1:]) for shape in shapes)
