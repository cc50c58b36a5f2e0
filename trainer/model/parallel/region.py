"""Where the values that a rank stores lie in a whole tensor."""

import math
from dataclasses import dataclass

from torch import Tensor

from trainer.model.parallel.division import Part


@dataclass(frozen=True)
class Region:
    """A box of a tensor, or a run of the box's elements in row-major order.

    Attributes:
        shape: of the whole tensor.
        offset: index of the box's first element in it, or in the part.
        sizes: of the box.
        start: number of the first stored element among those of the box.
        part: the stretches of the tensor that the box lies in, one behind the other; None: the whole tensor.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    sizes: tuple[int, ...]
    start: int = 0
    part: Part | None = None

    @classmethod
    def whole(cls, shape: tuple[int, ...], start: int = 0) -> "Region":
        """A tensor from one of its elements on, which is not cut in any other way."""
        return cls(shape, (0,) * len(shape), shape, start)

    @classmethod
    def of_part(cls, part: Part, sizes: tuple[int, ...], start: int = 0) -> "Region":
        """The part of a tensor that a rank computes with, from one of its elements on."""
        return cls(part.shape, (0,) * len(sizes), sizes, start, part)

    def rectangles(self, values: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """Cuts stored values into rectangles of the whole tensor: at most three of a matrix, and one more a stretch.

        `values` are contiguous; what exceeds the box is padding. Offsets and views are in row-major order.
        """
        flat = values.view(-1)
        stop = min(self.start + len(flat), math.prod(self.sizes))
        cut, taken = [], 0
        for offset, sizes in _rectangles(self.sizes, self.start, stop):
            place = tuple(inside + corner for inside, corner in zip(offset, self.offset, strict=True))
            rectangle = flat.narrow(0, taken, math.prod(sizes)).view(sizes)
            cut += [(place, rectangle)] if self.part is None else self.part.place(place, rectangle)
            taken += math.prod(sizes)
        return cut


def _rectangles(sizes: tuple[int, ...], start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Offset and sizes of the rectangles that make up the elements from `start` to before `stop` of a box."""
    if start >= stop:
        return []
    if len(sizes) <= 1:
        return [((start,), (stop - start,))] if sizes else [((), ())]
    row = math.prod(sizes[1:])
    first, last = -(-start // row), stop // row
    if first > last:
        return _in_row(sizes, first - 1, start, stop)
    whole = ((first, *(0 for _ in sizes[1:])), (last - first, *sizes[1:]))
    return [
        *_in_row(sizes, first - 1, start, first * row),
        *([whole] if first < last else []),
        *_in_row(sizes, last, last * row, stop),
    ]


def _in_row(sizes: tuple[int, ...], index: int, start: int, stop: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The same inside the sub-box at one index of the first dimension."""
    before = index * math.prod(sizes[1:])
    inside = _rectangles(sizes[1:], start - before, stop - before)
    return [((index, *offset), (1, *found)) for offset, found in inside]
