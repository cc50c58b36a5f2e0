"""The experts of a rank, one after the other without copies between them.

Shape suffixes: R rows that arrived, by slot; D model width, F inner width of an expert.
"""

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moe.dispatch.borrowing import Loans

_BLOCK_ROWS = 512
"""Rows that are computed at once: enough for the matrix products, few enough for a cache to hold their inner layer."""


class ContiguousExperts(SequentialMLP):
    """Megatron-Core's sequential experts, computed as one operation on one buffer.

    Same parameters under the same names. Megatron splits the rows, runs one expert at a time and joins the outputs;
    here each expert reads and writes its rows in place, a block at a time. The gate multiplies an expert's output,
    which is narrower than its inner layer. For the backward pass one tensor of three of the inner layer is kept, the
    value before the activation. The matrix products cost the same; less memory is written and read.

    Attributes:
        loans: weights of replicas in further slots of this rank; None: there are none in the layer.
    """

    loans: Loans | None = None

    def forward(
        self, permuted_local_hidden_states: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor
    ) -> tuple[Tensor, None]:
        """Computes the experts.

        Args:
            permuted_local_hidden_states: rows by slot, [R, D].
            tokens_per_expert: rows of each slot, int64 on the host.
            permuted_probs: gate values, [R].

        Returns:
            The outputs times their gate values, [R, D], and no bias.
        """
        if self.config.gated_linear_unit or self.config.add_bias_linear or self.config.activation_func is not _GELU:
            assert self.loans is None, "replicas are of plain GELU experts"
            return super().forward(permuted_local_hidden_states, tokens_per_expert, permuted_probs)
        experts: Any = self.local_experts
        first: list[Tensor] = [expert.linear_fc1.weight for expert in experts]
        second: list[Tensor] = [expert.linear_fc2.weight for expert in experts]
        if self.loans is not None:
            first, second = self.loans.weights(first, second)
        rows_RD, counts = permuted_local_hidden_states, tokens_per_expert.tolist()
        return _GatedExperts.apply(rows_RD, permuted_probs, counts, *first, *second), None


_GELU = nn.functional.gelu


class _GatedExperts(Function):
    """gate * W2 gelu(W1 x) for rows of several experts."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, gates_R: Tensor, counts: list[int], *weights: Tensor) -> Tensor:
        first, second = weights[: len(counts)], weights[len(counts) :]
        inner_RF = rows_RD.new_empty([len(rows_RD), len(first[0])])
        outputs_RD = torch.empty_like(rows_RD)
        scratch = _scratch(inner_RF, counts)
        for expert, block in _blocks(counts):
            active = scratch[: block.stop - block.start]
            torch.mm(rows_RD[block], first[expert].T, out=inner_RF[block])
            torch.ops.aten.gelu.out(inner_RF[block], out=active)
            torch.mm(active, second[expert].T, out=outputs_RD[block])
        ctx.save_for_backward(rows_RD, gates_R, inner_RF, outputs_RD, *weights)
        ctx.counts = counts
        return (outputs_RD * gates_R[:, None]).to(rows_RD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows_RD, gates_R, inner_RF, outputs_RD, *weights = ctx.saved_tensors
        counts = ctx.counts
        first, second = weights[: len(counts)], weights[len(counts) :]
        wide = torch.promote_types(gates_R.dtype, rows_RD.dtype)
        gate_gradients_R = torch.linalg.vecdot(gradients[0].to(wide), outputs_RD.to(wide)).to(gates_R.dtype)
        gated_RD = (gradients[0] * gates_R[:, None]).to(rows_RD.dtype)
        row_gradients_RD = torch.empty_like(rows_RD)
        weight_gradients = [_WeightGradient(weight) for weight in weights]
        into_first, into_second = weight_gradients[: len(counts)], weight_gradients[len(counts) :]
        scratch, other_scratch = _scratch(inner_RF, counts), _scratch(inner_RF, counts)
        for expert, block in _blocks(counts):
            inner, gated = inner_RF[block], gated_RD[block]
            active, slope = scratch[: len(inner)], other_scratch[: len(inner)]
            torch.ops.aten.gelu.out(inner, out=active)
            into_second[expert].add(gated.T, active)
            torch.mm(gated, second[expert], out=slope)
            torch.ops.aten.gelu_backward.grad_input(slope, inner, grad_input=slope)
            into_first[expert].add(slope.T, rows_RD[block])
            torch.mm(slope, first[expert], out=row_gradients_RD[block])
        return row_gradients_RD, gate_gradients_R, None, *(gradient.total() for gradient in weight_gradients)


class _WeightGradient:
    """A sum of matrix products that begins with the first of them instead of zeros."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self._sum: Tensor | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        if self._sum is None:
            self._sum = left @ right
        else:
            self._sum.addmm_(left, right)

    def total(self) -> Tensor:
        return torch.zeros_like(self._weight) if self._sum is None else self._sum


def _scratch(inner_RF: Tensor, counts: list[int]) -> Tensor:
    return inner_RF.new_empty([min(max(counts), _BLOCK_ROWS), inner_RF.shape[1]])


def _blocks(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Slot and rows of each block; a slot without rows has none."""
    start = 0
    for expert, count in enumerate(counts):
        for begin in range(start, start + count, _BLOCK_ROWS):
            yield expert, slice(begin, min(begin + _BLOCK_ROWS, start + count))
        start += count
