"""The differentiable all-to-all of rows that every dispatcher is made of.

Shape suffixes: T rows that leave, R rows that arrive, D width, C columns that carry a gate value, E experts,
N ranks of the group.
"""

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
    weight_columns = weights.contiguous()[:, None].view(rows.dtype)
    received = _exchange(torch.cat([rows, weight_columns], dim=1), group, output_splits, input_splits)
    return received[:, :width], received[:, width:].contiguous().view(weights.dtype)[:, 0]
