"""Rows that are copied, added up again and put in another order, in a way that does not depend on the device.

Nothing here makes the host wait for a device: every number of rows is known before.

Shape suffixes: R rows, C copies, D width, X and Y rows and columns of a table of chunks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def places_of(flags: Tensor, number: int) -> Tensor:
    """Places of the true flags, int64 [number], ascending: ``flags.nonzero()`` for a number that is known."""
    turns = flags.cumsum(0) * flags
    places = turns.new_empty(number + 1)  # the first one takes all that are false
    return places.scatter_(0, turns, torch.arange(len(flags), device=flags.device))[1:]


def counts_of(sorted_keys: Tensor, number: int) -> Tensor:
    """How often each key from 0 to `number` - 1 occurs among ascending ones, int64 [number]."""
    keys = torch.arange(number, device=sorted_keys.device)
    return torch.searchsorted(sorted_keys, keys, right=True) - torch.searchsorted(sorted_keys, keys)


@dataclass(frozen=True, slots=True)
class RowCopies:
    """Maps copies to their rows. Spreading rows over their copies and adding copies to their rows are adjoint maps.

    Attributes:
        source: row of each copy, int64 [C].
        order: the copies row by row, int64 [C].
        first: where in ``order`` the copies of each row begin, int64 [R].
    """

    source: Tensor
    order: Tensor
    first: Tensor

    @classmethod
    def of(cls, source_C: Tensor, num_rows: int) -> "RowCopies":
        """Sorts copies by their row; rows without a copy are allowed."""
        by_row_C, order_C = source_C.sort(stable=True)
        return cls(source_C, order_C, torch.searchsorted(by_row_C, torch.arange(num_rows, device=source_C.device)))

    def spread(self, rows_RD: Tensor) -> Tensor:
        """Copies of rows [R, D], [C, D]; their gradients are added up."""
        return _Spread.apply(rows_RD, self)

    def add(self, copies_CD: Tensor) -> Tensor:
        """Sums of the copies of each row, [R, D], always in the same order; zero for a row without copies."""
        return _Add.apply(copies_CD, self)


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Another order of rows.

    Attributes:
        source: where each row comes from, int64 [R].
        target: where each row goes to, int64 [R].
    """

    source: Tensor
    target: Tensor

    @classmethod
    def by_column(cls, counts_XY: Tensor, num_rows: int) -> "RowOrder":
        """Reorders chunks of rows from the row-by-row order of a table of chunks to its column-by-column order.

        The counts are the rows of each chunk, int64, on the rows' device; `num_rows` is their sum R.
        """
        ends_XY = counts_XY.reshape(-1).cumsum(0).view(counts_XY.shape)
        ends_YX = counts_XY.T.reshape(-1).cumsum(0)
        moved_YX = ends_XY.T.reshape(-1) - ends_YX
        place_R = torch.arange(num_rows, device=counts_XY.device)
        source_R = place_R + moved_YX.index_select(0, torch.searchsorted(ends_YX, place_R, right=True))
        return cls(source_R, torch.empty_like(source_R).scatter_(0, source_R, place_R))

    @property
    def inverse(self) -> "RowOrder":
        """The reverse order."""
        return RowOrder(self.target, self.source)

    def of(self, rows: Tensor) -> Tensor:
        """Returns rows [R, ...] of any memory layout in this order, contiguous."""
        return _Reorder.apply(rows, self)


def _spread(rows_RD: Tensor, copies: RowCopies) -> Tensor:
    return rows_RD.index_select(0, copies.source)


def _add(copies_CD: Tensor, copies: RowCopies) -> Tensor:
    return torch.nn.functional.embedding_bag(copies.order, copies_CD, copies.first, mode="sum")


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, copies: RowCopies) -> Tensor:
        ctx.copies = copies
        return _spread(rows_RD, copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _add(gradients[0].contiguous(), ctx.copies), None


class _Add(Function):
    @staticmethod
    def forward(ctx: Any, copies_CD: Tensor, copies: RowCopies) -> Tensor:
        ctx.copies = copies
        return _add(copies_CD.contiguous(), copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _spread(gradients[0], ctx.copies), None


class _Reorder(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: RowOrder) -> Tensor:
        ctx.order = order
        return rows.index_select(0, order.source)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.order.target), None
