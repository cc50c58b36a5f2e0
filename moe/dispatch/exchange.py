"""Differentiable all-to-alls of rows, which all dispatchers use.

Shape suffixes: T rows of this rank, C rows that leave, R rows that arrive, P labels that leave, Q labels that arrive,
D width of a row, K gate values of a row, L labels (integers) of a row, E experts, N ranks of the group.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from moe.dispatch.row_copies import RowCopies

# torch 2.13 deprecates all_gather_into_tensor in favour of a name that older releases lack.
_all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def gather_equal(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Concatenates the values of all ranks, of one shape, along the first dimension; no gradient flows."""
    if group.size() == 1:
        return values
    gathered = values.new_empty(group.size() * len(values), *values.shape[1:])
    _all_gather_single(gathered, values.contiguous(), group=group)
    return gathered


def gather_counts(counts_E: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Each rank's number of rows for each slot, int64 [N, E]."""
    return gather_equal(counts_E, group).view(group.size(), -1)


@dataclass(frozen=True, slots=True)
class Splits:
    """Numbers of rows and labels that leave for, or arrive from, each rank of the group."""

    rows: list[int]
    labels: list[int]


def exchange_counts(counts_2N: Tensor, group: dist.ProcessGroup) -> tuple[Splits, Splits]:
    """Exchanges numbers of rows and labels [2, N], eight bytes to each rank: what leaves and what arrives, on the
    host.
    """
    (sent, received) = exchange_table(counts_2N.T, group).transpose(1, 2).tolist()
    return Splits(*sent), Splits(*received)


def exchange_table(numbers_NX: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sends each rank the numbers of its row, int64 [N, X]: four bytes each.

    Returns those that left for each rank and those that arrived from each, [2, N, X], on the host.
    """
    sent_NX = numbers_NX.to(torch.int32).contiguous()
    if group.size() == 1:
        return torch.stack([sent_NX, sent_NX]).cpu()
    received_NX = torch.empty_like(sent_NX)
    dist.all_to_all_single(received_NX, sent_NX, group=group)
    return torch.stack([sent_NX, received_NX]).cpu()


def exchange_rows(rows: Tensor, group: dist.ProcessGroup, received: list[int], sent: list[int]) -> Tensor:
    """All-to-all of rows in order of their destination; returns them in order of their source. Has no gradient."""
    if group.size() == 1:
        return rows
    arrived = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(arrived, rows.contiguous(), received, sent, group=group)
    return arrived


class ExchangeRows(Function):
    """All-to-all of rows; the gradient travels back."""

    @staticmethod
    def forward(
        ctx: Any, rows_TD: Tensor, group: dist.ProcessGroup, output_splits: list[int], input_splits: list[int]
    ) -> Tensor:
        """Rows [R, D] in order of their source, of rows in order of their destination."""
        ctx.route = (group, input_splits, output_splits)
        return exchange_rows(rows_TD, group, output_splits, input_splits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return exchange_rows(gradients[0], *ctx.route), None, None, None


class ExchangeWeightedRows(Function):
    """All-to-all of rows, each with one gate value that keeps its own precision inside the same message."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_TD: Tensor,
        weights_T: Tensor,
        group: dist.ProcessGroup,
        output_splits: list[int],
        input_splits: list[int],
    ) -> tuple[Tensor, Tensor]:
        """Rows [R, D] and weights [R]; a weight's element size is a multiple of the rows'."""
        ctx.route = (group, input_splits, output_splits)
        return _exchange_weighted(rows_TD, weights_T, group, output_splits, input_splits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sends the gradients of rows [R, D] and weights [R] back together."""
        rows_RD, weights_R = gradients
        return *_exchange_weighted(rows_RD, weights_R, *ctx.route), None, None, None


def _exchange_weighted(
    rows: Tensor, weights: Tensor, group: dist.ProcessGroup, output_splits: list[int], input_splits: list[int]
) -> tuple[Tensor, Tensor]:
    if group.size() == 1:
        return rows, weights
    width = rows.shape[1]
    received = exchange_rows(torch.cat([rows, _columns(weights, rows)], dim=1), group, output_splits, input_splits)
    return received[:, :width], _values(received[:, width:], weights.dtype)


class ExchangeLabelledRows(Function):
    """All-to-all of rows that are followed, in the same message, by weighted labels: a ragged number for each rank."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_TD: Tensor,
        weights_P: Tensor,
        labels_P: Tensor,
        group: dist.ProcessGroup,
        received: Splits,
        sent: Splits,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [R, D], weights [Q] and labels int64 [Q] by source, of rows, weights and labels by destination.

        A weight's element size is a multiple of the rows'; labels must fit the integer of the rows' element size.
        """
        ctx.route = (group, sent, received)
        if group.size() == 1:
            labels_Q = labels_P.clone()
            ctx.mark_non_differentiable(labels_Q)
            return rows_TD, weights_P, labels_Q
        integer = _INTEGERS[rows_TD.element_size()]
        columns = torch.cat([_columns(labels_P.to(integer), rows_TD), _columns(weights_P, rows_TD)], dim=1)
        rows_RD, columns = _exchange_behind(rows_TD, columns, group, received, sent)
        labels_Q = _values(columns[:, :1], integer).long()
        ctx.mark_non_differentiable(labels_Q)
        return rows_RD, _values(columns[:, 1:], weights_P.dtype), labels_Q

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sends the gradients of rows [R, D] and weights [Q] back together."""
        rows_RD, weights_Q, _ = gradients
        if ctx.route[0].size() > 1:
            dtype = weights_Q.dtype
            rows_RD, columns = _exchange_behind(rows_RD, _columns(weights_Q, rows_RD), *ctx.route)
            weights_Q = _values(columns, dtype)
        return rows_RD, weights_Q, None, None, None, None


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _columns(values: Tensor, like: Tensor) -> Tensor:
    """One value for each row, viewed as columns of the type of `like`."""
    return values.contiguous()[:, None].view(like.dtype)


def _values(columns: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`_columns`, with a copy: a slice of a single row counts as contiguous wherever it starts."""
    return columns.clone(memory_format=torch.contiguous_format).view(dtype)[:, 0]


def _exchange_behind(
    rows: Tensor, columns: Tensor, group: dist.ProcessGroup, received: Splits, sent: Splits
) -> tuple[Tensor, Tensor]:
    """The message to a rank: its rows one after the other, then its labels' columns one after the other."""
    parts = zip(rows.split(sent.rows), columns.split(sent.labels), strict=True)
    message = torch.cat([part.reshape(-1) for pair in parts for part in pair])
    lengths = [_lengths(splits, rows.shape[1], columns.shape[1]) for splits in (received, sent)]
    arrived = exchange_rows(message, group, *([sum(pair) for pair in pairs] for pairs in lengths))
    blocks = arrived.split([length for pair in lengths[0] for length in pair])
    return torch.cat(blocks[::2]).view(-1, rows.shape[1]), torch.cat(blocks[1::2]).view(-1, columns.shape[1])


def _lengths(splits: Splits, row: int, label: int) -> list[tuple[int, int]]:
    """Elements of rows and of labels for each rank."""
    return [(rows * row, labels * label) for rows, labels in zip(splits.rows, splits.labels, strict=True)]


@dataclass(frozen=True, slots=True)
class Route:
    """All-to-all of rows: so many to and from each rank of a group."""

    group: dist.ProcessGroup
    sent: list[int]
    received: list[int]


class MoveRows(Function):
    """All-to-all of rows, each with its gate values and labels inside the same message, bit by bit."""

    @staticmethod
    def forward(
        ctx: Any, rows_TD: Tensor, gates_TK: Tensor, labels_TL: Tensor, order_C: Tensor, route: Route
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moves rows; returns rows [R, D], gate values [R, K] and labels int64 [R, L] in order of their source.

        Args:
            rows_TD: rows of this rank.
            gates_TK: gate values of each, of an element size that is a multiple of the rows'.
            labels_TL: integers of each, of less than 31 bits.
            order_C: which row is sent, in order of destination; a row may go to several.
            route: sizes of the messages.
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
    """One row a token: its values, then gate values and labels (4 bytes each, 8 beside float64) viewed as its type."""
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
