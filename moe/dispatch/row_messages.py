"""Rows in messages: packed with their gate values and labels, and moved by a differentiable all-to-all.

Shape suffixes: T rows of this rank, C rows that leave, R rows that arrive, D width of a row, K gate values of a row,
L labels (integers) of a row.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from moe.dispatch.row_copies import RowCopies


@dataclass(frozen=True, slots=True)
class Route:
    """An all-to-all of rows.

    Attributes:
        group: the ranks that take part.
        sent: rows for each of them.
        received: rows from each of them.
    """

    group: dist.ProcessGroup
    sent: list[int]
    received: list[int]


class MoveRows(Function):
    """All-to-all of rows, each with its gate values and labels inside the same message, bit by bit."""

    @staticmethod
    def forward(
        ctx: Any, rows_TD: Tensor, gates_TK: Tensor, labels_TL: Tensor, order_C: Tensor, route: Route
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moves rows.

        Args:
            ctx: autograd's context.
            rows_TD: rows of this rank.
            gates_TK: gate values of each, of an element size that is a multiple of the rows'.
            labels_TL: integers of each, of less than 31 bits.
            order_C: which row is sent, in order of destination; a row may go to several.
            route: sizes of the messages.

        Returns:
            Rows [R, D], gate values [R, K] and labels int64 [R, L], in order of their source.
        """
        ctx.route = route
        ctx.save_for_backward(order_C)
        ctx.num_rows = len(rows_TD)
        message = packed(rows_TD[order_C], gates_TK[order_C], labels_TL[order_C])
        message = exchange_rows(message, route.group, route.received, route.sent)
        rows_RD, gates_RK, labels_RL = unpacked(
            message, rows_TD.shape[1], gates_TK.shape[1], gates_TK.dtype, labels_TL.shape[1]
        )
        ctx.mark_non_differentiable(labels_RL)
        return rows_RD, gates_RK, labels_RL

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sends the gradients of rows [R, D] and gates [R, K] back and adds up those of one row."""
        rows_RD, gates_RK, _ = gradients
        no_labels = torch.empty(len(rows_RD), 0, dtype=torch.int64, device=rows_RD.device)
        message = packed(rows_RD, gates_RK, no_labels)
        message = exchange_rows(message, ctx.route.group, ctx.route.sent, ctx.route.received)
        rows_CD, gates_CK, _ = unpacked(message, rows_RD.shape[1], gates_RK.shape[1], gates_RK.dtype, 0)
        (order_C,) = ctx.saved_tensors
        copies = RowCopies.of(order_C, ctx.num_rows)
        return copies.add(rows_CD), copies.add(gates_CK), None, None, None


def packed(rows_TD: Tensor, gates_TK: Tensor, labels_TL: Tensor) -> Tensor:
    """One row a token: its values, then its gate values and labels (4 bytes each, 8 beside float64) in columns of the
    rows' type."""
    labels_TL = labels_TL.to(_label_type(rows_TD.dtype))
    columns = [values.contiguous().view(rows_TD.dtype) for values in (gates_TK, labels_TL) if values.shape[1]]
    return torch.cat([rows_TD, *columns], dim=1)


def unpacked(
    message: Tensor, width: int, num_gates: int, gate_type: torch.dtype, num_labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The inverse of :func:`packed`; labels come back as int64."""
    end = width + num_gates * gate_type.itemsize // message.element_size()
    gates_TK = _read(message[:, width:end], gate_type, num_gates)
    labels_TL = _read(message[:, end:], _label_type(message.dtype), num_labels)
    return message[:, :width].contiguous(), gates_TK, labels_TL.long()


def _read(columns: Tensor, dtype: torch.dtype, number: int) -> Tensor:
    """Columns viewed as `number` values of another type for each row; also for no columns, which torch cannot view."""
    if not number:
        return columns.new_empty(len(columns), 0, dtype=dtype)
    return aligned(columns).view(dtype).view(len(columns), number)


def aligned(columns: Tensor) -> Tensor:
    """A copy that can be viewed as a larger type, where a slice of one row counts as contiguous and starts anywhere."""
    return columns.clone(memory_format=torch.contiguous_format)


def _label_type(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype.itemsize == 8 else torch.int32


def exchange_rows(rows: Tensor, group: dist.ProcessGroup, received: list[int], sent: list[int]) -> Tensor:
    """All-to-all of rows in order of their destination; returns them in order of their source. Has no gradient."""
    if group.size() == 1:
        return rows
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows, received, sent, group=group)
    return arrived
