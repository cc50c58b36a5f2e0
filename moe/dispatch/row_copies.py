"""Rows that are copied, and copies that are added up again, in an order that does not depend on the device.

Shape suffixes: R rows, C copies, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True, slots=True)
class RowCopies:
    """Which row each copy is of. Spreading rows over their copies and adding copies to their rows are adjoint maps.

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
        """Sorts copies by their row.

        Args:
            source_C: row of each copy, int64.
            num_rows: number of rows R; rows without a copy are allowed.
        """
        counts_R = torch.bincount(source_C, minlength=num_rows)
        return cls(source_C, source_C.argsort(stable=True), counts_R.cumsum(0) - counts_R)

    def spread(self, rows_RD: Tensor) -> Tensor:
        """Copies rows.

        Args:
            rows_RD: the rows.

        Returns:
            The copies, [C, D]; their gradients are added up.
        """
        return _Spread.apply(rows_RD, self)

    def add(self, copies_CD: Tensor) -> Tensor:
        """Adds up the copies of each row, always in the same order.

        Args:
            copies_CD: the copies.

        Returns:
            The sums, [R, D]; zero for a row without copies.
        """
        return _Add.apply(copies_CD, self)


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
