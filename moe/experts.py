"""The experts of a rank: their parameters, and which way of computing them the device takes.

Shape suffixes: R rows that arrived, by slot; C experts at home on this rank, S slots of this rank; D model width, F
inner width of an expert.
"""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from moe.dispatch.borrowing import Loans
from moe.expert_products import BlockedExperts, GroupedExperts, takes_groups


class Matrices(nn.Module):
    """One matrix of each expert, stacked in a single parameter.

    What a parameter costs in a step hardly depends on its size, so that a stack costs no more than one of its matrices.

    Attributes:
        weight: [experts, outputs, inputs].
    """

    def __init__(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        """Reserves memory and leaves the values to the caller.

        Args:
            experts: number of matrices.
            outputs: rows of each.
            inputs: columns of each.
            dtype: type of the elements.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs, dtype=dtype))


class StackedExperts(nn.Module):
    """The experts at home on a rank, computed as one operation on one buffer; see :mod:`moe.expert_products`.

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
        name: str | None = None,  # noqa: ARG002
    ) -> None:
        """Reserves memory for the experts; Megatron-Core's layer calls this.

        Args:
            num_local_experts: experts at home on this rank, C.
            config: Megatron's configuration; plain GELU experts without biases.
            pg_collection: process groups, of which none are needed.
            name: of the module, which is not needed; passed from Megatron-Core 0.18 on.
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
            tokens_per_slot_S: rows of each slot, int64, on the host or the device of the rows; rows behind the last
                slot's belong to none. A processor reads them, a device with a grouped product does not.
            gates_R: gate values.

        Returns:
            The outputs times their gate values, [R, D], zero for a row of no slot; and no bias.
        """
        first_SFD, second_SDF = self.linear_fc1.weight, self.linear_fc2.weight
        if self.loans is not None:
            first_SFD, second_SDF = self.loans.weights(first_SFD, second_SDF)
        if takes_groups(rows_RD, first_SFD):
            counts_S = tokens_per_slot_S.to(rows_RD.device, non_blocking=True)
            return GroupedExperts.apply(rows_RD, gates_R, counts_S, first_SFD, second_SDF), None
        return BlockedExperts.apply(rows_RD, gates_R, tokens_per_slot_S.tolist(), first_SFD, second_SDF), None
