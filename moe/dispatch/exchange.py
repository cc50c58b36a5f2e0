"""Differentiable all-to-alls of rows, which all dispatchers use.

Shape suffixes: T rows that leave, R rows that arrive, P labels that leave, Q labels that arrive, D width, E experts,
N ranks of the group.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

# torch 2.13 deprecates all_gather_into_tensor in favour of a name that older releases lack.
_all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def gather_counts(counts_E: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gathers each rank's number of rows for each slot.

    Args:
        counts_E: int64 [E].
        group: the expert-parallel group.

    Returns:
        int64 [N, E].
    """
    if group.size() == 1:
        return counts_E[None]
    gathered = counts_E.new_empty(group.size() * counts_E.numel())
    _all_gather_single(gathered, counts_E, group=group)
    return gathered.view(group.size(), -1)


@dataclass(frozen=True, slots=True)
class Splits:
    """Numbers of rows and labels that leave for, or arrive from, each rank of the group.

    Attributes:
        rows: number of rows by rank.
        labels: number of labels by rank.
    """

    rows: list[int]
    labels: list[int]


def exchange_counts(counts_2N: Tensor, group: dist.ProcessGroup) -> tuple[Splits, Splits]:
    """Tells each rank how many rows and labels it will receive: eight bytes to each.

    Args:
        counts_2N: rows and labels for each rank, int64.
        group: the expert-parallel group.

    Returns:
        Numbers that leave and numbers that arrive, on the host.
    """
    (sent, received) = exchange_table(counts_2N.T, group).transpose(1, 2).tolist()
    return Splits(*sent), Splits(*received)


def exchange_table(numbers_NX: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Tells each rank some numbers: four bytes each.

    Args:
        numbers_NX: for each rank as many, int64.
        group: the expert-parallel group.

    Returns:
        Numbers that left for each rank and numbers that arrived from each, [2, N, X], on the host.
    """
    sent_NX = numbers_NX.to(torch.int32).contiguous()
    if group.size() == 1:
        return torch.stack([sent_NX, sent_NX]).cpu()
    received_NX = torch.empty_like(sent_NX)
    dist.all_to_all_single(received_NX, sent_NX, group=group)
    return torch.stack([sent_NX, received_NX]).cpu()


def _exchange(rows: Tensor, group: dist.ProcessGroup, output_splits: list[int], input_splits: list[int]) -> Tensor:
    if group.size() == 1:
        return rows
    received = rows.new_empty([sum(output_splits), *rows.shape[1:]])
    dist.all_to_all_single(received, rows.contiguous(), output_splits, input_splits, group=group)
    return received


class ExchangeRows(Function):
    """All-to-all of rows; the gradient takes the way back."""

    @staticmethod
    def forward(
        ctx: Any, rows_TD: Tensor, group: dist.ProcessGroup, output_splits: list[int], input_splits: list[int]
    ) -> Tensor:
        """Exchanges rows.

        Args:
            ctx: autograd's context.
            rows_TD: rows in order of their destination.
            group: the expert-parallel group.
            output_splits: rows that arrive from each rank.
            input_splits: rows that leave for each rank.

        Returns:
            Rows [R, D] in order of their source.
        """
        ctx.route = (group, input_splits, output_splits)
        return _exchange(rows_TD, group, output_splits, input_splits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Sends the gradient rows [R, D] back to where the rows came from."""
        return _exchange(gradients[0], *ctx.route), None, None, None


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
        """Exchanges rows and weights.

        Args:
            ctx: autograd's context.
            rows_TD: rows in order of their destination.
            weights_T: one value a row, of an element size that is a multiple of the rows'.
            group: the expert-parallel group.
            output_splits: rows that arrive from each rank.
            input_splits: rows that leave for each rank.

        Returns:
            Rows [R, D] and weights [R].
        """
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
    received = _exchange(torch.cat([rows, _columns(weights, rows)], dim=1), group, output_splits, input_splits)
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
        """Exchanges rows, weights and labels.

        Args:
            ctx: autograd's context.
            rows_TD: rows in order of their destination.
            weights_P: one value a label, of an element size that is a multiple of the rows'.
            labels_P: integers in order of their destination; they must fit the integer of the rows' element size.
            group: the expert-parallel group.
            received: what arrives from each rank.
            sent: what leaves for each rank.

        Returns:
            Rows [R, D], weights [Q] and labels int64 [Q] in order of their source.
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
    arrived = _exchange(message, group, *([sum(pair) for pair in pairs] for pairs in lengths))
    blocks = arrived.split([length for pair in lengths[0] for length in pair])
    return torch.cat(blocks[::2]).view(-1, rows.shape[1]), torch.cat(blocks[1::2]).view(-1, columns.shape[1])


def _lengths(splits: Splits, row: int, label: int) -> list[tuple[int, int]]:
    """Elements of rows and of labels for each rank."""
    return [(rows * row, labels * label) for rows, labels in zip(splits.rows, splits.labels, strict=True)]
