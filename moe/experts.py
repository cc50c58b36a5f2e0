"""The experts of a rank, one after the other without copies between them.

Shape suffixes: R rows that arrived, by slot; C experts at home on this rank, S slots of this rank; D model width, F
inner width of an expert.
"""

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moe.dispatch.borrowing import Loans

_BLOCK_ROWS = 512
"""Rows that are computed at once: enough for the matrix products, few enough for a cache to hold their inner layer."""


class Matrices(nn.Module):
    """One matrix of each expert, stacked in a single parameter.

    What a parameter costs in a step hardly depends on its size, so that a stack costs no more than one of its matrices.

    Attributes:
        weight: [experts, outputs, inputs].
    """

    def __init__(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        """Reserves memory on the CPU and leaves the values to the caller.

        Args:
            experts: number of matrices.
            outputs: rows of each.
            inputs: columns of each.
            dtype: type of the elements.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs, dtype=dtype, device="cpu"))


class StackedExperts(nn.Module):
    """The experts at home on a rank, computed as one operation on one buffer.

    gate * W2 gelu(W1 x) for each row x. The gate multiplies an expert's output, which is narrower than its inner layer.
    For the backward pass one tensor of three of the inner layer is kept, the value before the activation.

    Attributes:
        linear_fc1: W1 of every expert, [C, F, D].
        linear_fc2: W2 of every expert, [C, D, F].
        loans: weights of replicas in further slots of this rank; None: there are none in the layer.
    """

    loans: Loans | None = None

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,  # noqa: ARG002
    ) -> None:
        """Reserves memory for the experts; Megatron-Core's layer calls this.

        Args:
            num_local_experts: experts at home on this rank, C.
            config: Megatron's configuration; plain GELU experts without biases.
            pg_collection: process groups, of which none are needed.
        """
        super().__init__()
        assert config.activation_func is nn.functional.gelu
        assert not config.gated_linear_unit
        assert not config.add_bias_linear
        width, inner = config.hidden_size, config.moe_ffn_hidden_size
        assert inner is not None
        self.linear_fc1 = Matrices(num_local_experts, inner, width, config.params_dtype)
        self.linear_fc2 = Matrices(num_local_experts, width, inner, config.params_dtype)

    def forward(self, rows_RD: Tensor, tokens_per_slot_S: Tensor, gates_R: Tensor) -> tuple[Tensor, None]:
        """Computes the experts.

        Args:
            rows_RD: rows by slot.
            tokens_per_slot_S: rows of each slot, int64; rows behind the last slot's belong to none.
            gates_R: gate values.

        Returns:
            The outputs times their gate values, [R, D], zero for a row of no slot; and no bias.
        """
        first_SFD, second_SDF = self.linear_fc1.weight, self.linear_fc2.weight
        if self.loans is not None:
            first_SFD, second_SDF = self.loans.weights(first_SFD, second_SDF)
        return _GatedExperts.apply(rows_RD, gates_R, tokens_per_slot_S.tolist(), first_SFD, second_SDF), None


class _GatedExperts(Function):
    """gate * W2 gelu(W1 x) for rows of several experts."""

    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, gates_R: Tensor, counts: list[int], first_SFD: Tensor, second_SDF: Tensor
    ) -> Tensor:
        inner_RF = rows_RD.new_empty([len(rows_RD), first_SFD.shape[1]])
        outputs_RD = torch.empty_like(rows_RD)
        outputs_RD[sum(counts) :].zero_()
        scratch = _scratch(inner_RF, counts)
        for slot, block in _blocks(counts):
            active = scratch[: block.stop - block.start]
            torch.mm(rows_RD[block], first_SFD[slot].T, out=inner_RF[block])
            torch.ops.aten.gelu.out(inner_RF[block], out=active)
            torch.mm(active, second_SDF[slot].T, out=outputs_RD[block])
        ctx.save_for_backward(rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF)
        ctx.counts = counts
        return (outputs_RD * gates_R[:, None]).to(rows_RD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF = ctx.saved_tensors
        counts = ctx.counts
        wide = torch.promote_types(gates_R.dtype, rows_RD.dtype)
        gate_gradients_R = torch.linalg.vecdot(gradients[0].to(wide), outputs_RD.to(wide)).to(gates_R.dtype)
        gated_RD = (gradients[0] * gates_R[:, None]).to(rows_RD.dtype)
        row_gradients_RD = torch.empty_like(rows_RD)
        row_gradients_RD[sum(counts) :].zero_()
        into_first, into_second = _WeightGradients(first_SFD), _WeightGradients(second_SDF)
        scratch, other_scratch = _scratch(inner_RF, counts), _scratch(inner_RF, counts)
        for slot, block in _blocks(counts):
            inner, gated = inner_RF[block], gated_RD[block]
            active, slope = scratch[: len(inner)], other_scratch[: len(inner)]
            torch.ops.aten.gelu.out(inner, out=active)
            into_second.add(slot, gated.T, active)
            torch.mm(gated, second_SDF[slot], out=slope)
            torch.ops.aten.gelu_backward.grad_input(slope, inner, grad_input=slope)
            into_first.add(slot, slope.T, rows_RD[block])
            torch.mm(slope, first_SFD[slot], out=row_gradients_RD[block])
        return row_gradients_RD, gate_gradients_R, None, into_first.total(), into_second.total()


class _WeightGradients:
    """Sums of matrix products, one for each slot, that begin with the first of them instead of zeros."""

    def __init__(self, weights: Tensor) -> None:
        self._sums = torch.empty_like(weights)
        self._empty = set(range(len(weights)))

    def add(self, slot: int, left: Tensor, right: Tensor) -> None:
        if slot in self._empty:
            torch.mm(left, right, out=self._sums[slot])
            self._empty.remove(slot)
        else:
            self._sums[slot].addmm_(left, right)

    def total(self) -> Tensor:
        for slot in self._empty:
            self._sums[slot].zero_()
        return self._sums


def _scratch(inner_RF: Tensor, counts: list[int]) -> Tensor:
    return inner_RF.new_empty([min(max(counts), _BLOCK_ROWS), inner_RF.shape[1]])


def _blocks(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Slot and rows of each block; a slot without rows has none."""
    start = 0
    for slot, count in enumerate(counts):
        for begin in range(start, start + count, _BLOCK_ROWS):
            yield slot, slice(begin, min(begin + _BLOCK_ROWS, start + count))
        start += count
