"""The experts of a rank: their parameters, and gate * W2 gelu(W1 x) for each row x, in two forms with equal results.

A processor takes the rows of one expert at a time, in blocks that its cache holds. A device takes all experts in one
grouped product, whose groups it reads for itself: the host never waits for the number of rows of an expert, and
launches as many kernels for many experts as for one.

For the backward pass one tensor of three of the inner layer is kept, the value before the activation. The gate
multiplies an expert's output, which is narrower.

Shape suffixes: R rows that arrived, by slot; C experts at home on this rank, S slots of this rank; D model width, F
inner width of an expert.
"""

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from moe.dispatch.serving import Loans

_BLOCK_ROWS = 512
"""Rows that are computed at once: enough for the matrix products, few enough for a cache to hold their inner layer."""
_ALIGNMENT_BYTES = 16
"""Alignment in bytes of the rows of a grouped product's operands."""


def takes_groups(rows_RD: Tensor, first_SFD: Tensor) -> bool:
    """Whether these rows are on a device with a grouped product, and of a type and width that it takes."""
    if rows_RD.device.type == "cpu" or not hasattr(functional, "grouped_mm"):
        return False
    aligned = all(width * rows_RD.element_size() % _ALIGNMENT_BYTES == 0 for width in first_SFD.shape[1:])
    return aligned and rows_RD.dtype != torch.float64 and len(rows_RD) > 0


class BlockedExperts(Function):
    """Takes the rows of one slot after the other, each block in place; the counts are on the host."""

    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, gates_R: Tensor, counts: list[int], first_SFD: Tensor, second_SDF: Tensor
    ) -> Tensor:
        """Outputs [R, D] of rows by slot, zero for a row behind those of the slots, whose numbers are on the host."""
        inner_RF = rows_RD.new_empty([len(rows_RD), first_SFD.shape[1]])
        outputs_RD = torch.empty_like(rows_RD)
        slots, sizes = _blocks(counts, len(rows_RD))
        scratch = _scratch(inner_RF, sizes)
        first, second = first_SFD.mT.unbind(), second_SDF.mT.unbind()
        blocks = (values.split(sizes) for values in (rows_RD, inner_RF, outputs_RD))
        for slot, rows, inner, outputs in zip(slots, *blocks, strict=True):
            if slot is None:
                outputs.zero_()
                continue
            active = scratch[: len(rows)]
            torch.mm(rows, first[slot], out=inner)
            torch.ops.aten.gelu.out(inner, out=active)
            torch.mm(active, second[slot], out=outputs)
        ctx.save_for_backward(rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF)
        ctx.counts = counts
        return (outputs_RD * gates_R[:, None]).to(rows_RD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, gates and matrices; zero for a slot without rows."""
        rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF = ctx.saved_tensors
        gate_gradients_R, gated_RD = _through_gates(gradients[0], gates_R, outputs_RD)
        row_gradients_RD = torch.empty_like(rows_RD)
        into_first, into_second = _WeightGradients(first_SFD), _WeightGradients(second_SDF)
        slots, sizes = _blocks(ctx.counts, len(rows_RD))
        scratch, other_scratch = _scratch(inner_RF, sizes), _scratch(inner_RF, sizes)
        first, second = first_SFD.unbind(), second_SDF.unbind()
        blocks = (values.split(sizes) for values in (rows_RD, inner_RF, gated_RD, row_gradients_RD))
        for slot, rows, inner, gated, row_gradients in zip(slots, *blocks, strict=True):
            if slot is None:
                row_gradients.zero_()
                continue
            active, slope = scratch[: len(rows)], other_scratch[: len(rows)]
            torch.ops.aten.gelu.out(inner, out=active)
            into_second.add(slot, gated.T, active)
            torch.mm(gated, second[slot], out=slope)
            torch.ops.aten.gelu_backward.grad_input(slope, inner, grad_input=slope)
            into_first.add(slot, slope.T, rows)
            torch.mm(slope, first[slot], out=row_gradients)
        return row_gradients_RD, gate_gradients_R, None, into_first.total(), into_second.total()


class GroupedExperts(Function):
    """Takes the rows of all slots at once; the counts stay where they are.

    Gradients of matrices are products whose inner dimension is divided among the groups. A kernel may leave the rows
    behind the last group unwritten, so that they are zeroed.
    """

    @staticmethod
    def forward(
        ctx: Any, rows_RD: Tensor, gates_R: Tensor, counts_S: Tensor, first_SFD: Tensor, second_SDF: Tensor
    ) -> Tensor:
        """Outputs [R, D] of rows by slot, zero for a row behind those of the slots, whose numbers are on the device."""
        rows_RD, first_SFD, second_SDF = _aligned(rows_RD), _aligned(first_SFD), _aligned(second_SDF)
        ends_S = counts_S.cumsum(0, dtype=torch.int32)
        beyond_R = torch.arange(len(rows_RD), device=rows_RD.device) >= ends_S[-1]
        inner_RF = functional.grouped_mm(rows_RD, first_SFD.mT, offs=ends_S)
        outputs_RD = functional.grouped_mm(functional.gelu(inner_RF), second_SDF.mT, offs=ends_S)
        outputs_RD.masked_fill_(beyond_R[:, None], 0)
        ctx.save_for_backward(rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF, ends_S, beyond_R)
        return (outputs_RD * gates_R[:, None]).to(rows_RD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, gates and matrices; zero for a slot without rows."""
        rows_RD, gates_R, inner_RF, outputs_RD, first_SFD, second_SDF, ends_S, beyond_R = ctx.saved_tensors
        gate_gradients_R, gated_RD = _through_gates(gradients[0], gates_R, outputs_RD)
        into_second_SDF = functional.grouped_mm(gated_RD.mT, functional.gelu(inner_RF), offs=ends_S)
        slope_RF = functional.grouped_mm(gated_RD, second_SDF, offs=ends_S)
        torch.ops.aten.gelu_backward.grad_input(slope_RF, inner_RF, grad_input=slope_RF)
        into_first_SFD = functional.grouped_mm(slope_RF.mT, rows_RD, offs=ends_S)
        row_gradients_RD = functional.grouped_mm(slope_RF, first_SFD, offs=ends_S)
        row_gradients_RD.masked_fill_(beyond_R[:, None], 0)
        return row_gradients_RD, gate_gradients_R, None, into_first_SFD, into_second_SDF


def _through_gates(gradient_RD: Tensor, gates_R: Tensor, outputs_RD: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the gate values, and of the experts' outputs before the gate."""
    wide = torch.promote_types(gates_R.dtype, outputs_RD.dtype)
    gate_gradients_R = torch.linalg.vecdot(gradient_RD.to(wide), outputs_RD.to(wide)).to(gates_R.dtype)
    return gate_gradients_R, (gradient_RD * gates_R[:, None]).to(outputs_RD.dtype)


class _WeightGradients:
    """Sums of matrix products, one for each slot, that begin with the first of them instead of zeros."""

    def __init__(self, weights: Tensor) -> None:
        self._stack = torch.empty_like(weights)
        self._sums = self._stack.unbind()
        self._empty = set(range(len(weights)))

    def add(self, slot: int, left: Tensor, right: Tensor) -> None:
        if slot in self._empty:
            torch.mm(left, right, out=self._sums[slot])
            self._empty.remove(slot)
        else:
            self._sums[slot].addmm_(left, right)

    def total(self) -> Tensor:
        if self._empty:
            torch._foreach_zero_([self._sums[slot] for slot in self._empty])
        return self._stack


def _scratch(inner_RF: Tensor, sizes: list[int]) -> Tensor:
    return inner_RF.new_empty([max(sizes[:-1], default=0), inner_RF.shape[1]])


def _blocks(counts: list[int], rows: int) -> tuple[list[int | None], list[int]]:
    """Returns the slot and the number of rows of each block; the last block, of slot None, has the rows of no slot."""
    slots: list[int | None] = []
    sizes: list[int] = []
    for slot, count in enumerate(counts):
        for begin in range(0, count, _BLOCK_ROWS):
            slots.append(slot)
            sizes.append(min(_BLOCK_ROWS, count - begin))
    return [*slots, None], [*sizes, rows - sum(sizes)]


def _aligned(values: Tensor) -> Tensor:
    """Returns the values in contiguous, aligned memory that a grouped product can read; copies them only if needed."""
    if values.is_contiguous() and values.storage_offset() * values.element_size() % _ALIGNMENT_BYTES == 0:
        return values
    return values.clone(memory_format=torch.contiguous_format)


class Matrices(nn.Module):
    """One matrix of each expert, stacked in a single parameter.

    The cost of a parameter in an optimiser step hardly depends on its size: a stack costs no more than one matrix.

    Attributes:
        weight: [experts, outputs, inputs].
    """

    def __init__(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        """Reserves memory and leaves the values to the caller."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs, dtype=dtype))


class StackedExperts(nn.Module):
    """The experts at home on a rank, computed as one operation on one buffer.

    Attributes:
        linear_fc1: W1 of every expert, [C, F, D].
        linear_fc2: W2 of every expert, [C, D, F].
        loans: weights of replicas in further slots of this rank; None if absent.
    """

    loans: Loans | None = None

    def __init__(
        self,
        num_local_experts: int,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection | None = None,  # noqa: ARG002
        name: str | None = None,  # noqa: ARG002
    ) -> None:
        """Reserves memory for plain GELU experts without biases; Megatron-Core calls this, from 0.18 on with a name."""
        super().__init__()
        assert config.activation_func is nn.functional.gelu
        assert not config.gated_linear_unit
        assert not config.add_bias_linear
        width, inner = config.hidden_size, config.moe_ffn_hidden_size
        assert inner is not None
        self.linear_fc1 = Matrices(num_local_experts, inner, width, config.params_dtype)
        self.linear_fc2 = Matrices(num_local_experts, width, inner, config.params_dtype)

    def forward(self, rows_RD: Tensor, tokens_per_slot_S: Tensor, gates_R: Tensor) -> tuple[Tensor, None]:
        """Outputs times their gate values, [R, D], zero for a row of no slot; and no bias.

        Args:
            rows_RD: rows by slot.
            tokens_per_slot_S: rows of each slot, int64, on the host or the device of the rows; rows behind the last
                slot's belong to none. A processor reads them, a device with a grouped product does not.
            gates_R: gate values.
        """
        first_SFD, second_SDF = self.linear_fc1.weight, self.linear_fc2.weight
        if self.loans is not None:
            first_SFD, second_SDF = self.loans.weights(first_SFD, second_SDF)
        if takes_groups(rows_RD, first_SFD):
            counts_S = tokens_per_slot_S.to(rows_RD.device, non_blocking=True)
            return GroupedExperts.apply(rows_RD, gates_R, counts_S, first_SFD, second_SDF), None
        return BlockedExperts.apply(rows_RD, gates_R, tokens_per_slot_S.tolist(), first_SFD, second_SDF), None
