"""The rectangle of a parameter that a rank holds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

Columns = Callable[[nn.Module, Sequence[int]], nn.Module]
"""From a linear layer, and the widths of the sections of its output, to this rank's share of each section."""
Rows = Callable[[nn.Module], nn.Module]
"""From a linear layer behind one of `Columns` to this rank's share of its input, summed over the ranks."""


@dataclass(frozen=True)
class Part:
    """A rank's part of a parameter: its stretches along one dimension, each (first index, length) in the whole."""

    shape: tuple[int, ...]
    dimension: int
    stretches: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, shape: Sequence[int], dimension: int, sections: Sequence[int], rank: int, num_ranks: int) -> "Part":
        """The part of a rank, when each of the sections is divided equally among the ranks."""
        assert sum(sections) == shape[dimension]
        stretches, first = [], 0
        for width in sections:
            assert width % num_ranks == 0
            share = width // num_ranks
            stretches.append((first + rank * share, share))
            first += width
        return cls(tuple(shape), dimension, tuple(stretches))

    def cut(self, whole: Tensor) -> Tensor:
        return torch.cat([whole.narrow(self.dimension, *stretch) for stretch in self.stretches], self.dimension)

    def place(self, offset: Sequence[int], values: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
        """Cuts a rectangle of the part into rectangles of the whole: (offset in the whole, view of the values)."""
        first, placed, before = offset[self.dimension], [], 0
        end = first + values.shape[self.dimension]
        for start, length in self.stretches:
            low, high = max(first, before), min(end, before + length)
            if low < high:
                corner = list(offset)
                corner[self.dimension] = start + low - before
                placed.append((tuple(corner), values.narrow(self.dimension, low - first, high - low)))
            before += length
        return placed

    def put(self, values: Tensor, whole: Tensor) -> None:
        lengths = [length for _, length in self.stretches]
        for stretch, piece in zip(self.stretches, values.split(lengths, self.dimension), strict=True):
            whole.narrow(self.dimension, *stretch).copy_(piece)


@runtime_checkable
class Divisible(Protocol):
    """A block whose matrices ranks can share."""

    def divide(self, columns: Columns, rows: Rows) -> None:
        """Keeps one rank's share of the block, in place."""
        ...


@runtime_checkable
class SumsOverRanks(Protocol):
    """A layer of `Rows`, known without importing Megatron."""

    def summed(self, values: Tensor) -> Tensor:
        """The sum of values over the ranks that share the layer; sum and gradient are the same on each rank."""
        ...


class LinearShare(nn.Linear):
    """A linear layer of the size of a rank's share; `sums` is the pass in which ranks add up its results."""

    def __init__(self, linear: nn.Module, input_ranks: int, output_ranks: int) -> None:
        """Divides the widths over input ranks and output ranks, one of which is 1."""
        assert isinstance(linear, nn.Linear)
        super().__init__(
            linear.in_features // input_ranks, linear.out_features // output_ranks, bias=linear.bias is not None
        )
        self.sums: Literal["forward", "backward"] = "forward" if input_ranks > 1 else "backward"

    def forward(self, input: Tensor) -> Tensor:
        """Adds the bias after the product where the ranks sum the output."""
        if self.bias is None or self.sums == "backward":
            return super().forward(input)
        return functional.linear(input, self.weight) + self.bias


def divide_blocks(blocks: Iterable[nn.Module], columns: Columns, rows: Rows) -> None:
    """Keeps one rank's share of every :class:`Divisible` block, in place."""
    for block in blocks:
        assert isinstance(block, Divisible)
        block.divide(columns, rows)


@runtime_checkable
class HoldsParts(Protocol):
    """A layer that holds parts of its parameters, by their names in it; known without importing Megatron."""

    parts: dict[str, Part]

    def get_parameter(self, target: str) -> nn.Parameter: ...
