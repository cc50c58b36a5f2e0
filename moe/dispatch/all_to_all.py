"""Home-return dispatch: tokens travel to their experts and back to their own rank.

Shape suffixes: T tokens of this rank times their experts, R rows that arrive here, D model width, E experts,
N ranks of the expert-parallel group, P slots of the group.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from moe.dispatch.exchange import ExchangeRows, ExchangeWeightedRows
from moe.dispatch.serving import Serving


class HomeReturnDispatcher(MoEAlltoAllTokenDispatcher):
    """Megatron-Core's all-to-all dispatcher on any device, with a placement.

    ``serving.slots`` says which logical expert a physical slot of the expert-parallel group (rank * slots per rank +
    index) holds. Routers, losses and metrics speak of logical experts; only here, on their way out, the columns of the
    routing map become those of slots. Gate values travel bit-exact in the last columns of the token message, which
    saves one all-to-all in each direction and pass.

    Collectives of a layer and micro batch: one all-gather of the counts, two all-to-alls forward, two backward.
    """

    def __init__(
        self,
        num_local_experts: int,
        local_expert_indices: list[int],
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        serving: Serving,
    ) -> None:
        """Sets up the dispatcher of one layer.

        Args:
            num_local_experts: slots of this rank.
            local_expert_indices: global numbers of those slots, contiguous.
            config: Megatron's configuration of the layer.
            pg_collection: process groups (ep, expt_tp, tp_ep are used).
            serving: chooses the slot of every choice.
        """
        if not torch.cuda.is_available():
            # Megatron would create a CUDA stream
            MoEAlltoAllTokenDispatcher.cuda_dtoh_stream = object()  # pyright: ignore[reportAttributeAccessIssue]
        of_slots = copy.copy(config)  # Megatron counts experts where it means slots
        of_slots.num_moe_experts = serving.slots.experts.size
        super().__init__(num_local_experts, local_expert_indices, config=of_slots, pg_collection=pg_collection)
        self.serving = serving

    def dispatch_preprocess(
        self, hidden_states: Tensor, routing_map: Tensor, probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Orders the tokens by slot.

        Args:
            hidden_states: tokens [sequence, batch, D].
            routing_map: bool [tokens, E], logical experts.
            probs: gate values [tokens, E], logical experts.

        Returns:
            Rows [T, D] in order of their slot and their gate values [T].
        """
        map_TP, self._counts_NP = self.serving.agreed(routing_map)
        return super().dispatch_preprocess(hidden_states, map_TP, probs[:, self.serving.columns(probs.device)])

    def preprocess(self, routing_map: Tensor) -> Tensor:  # noqa: ARG002
        """Notes the sizes of the messages, on which the ranks have agreed.

        Args:
            routing_map: bool [tokens, P], columns in slot order.

        Returns:
            Rows for each slot of this rank, int64 [num_local_experts], on the host.
        """
        first = self.local_expert_indices[0]
        local_counts = self._counts_NP[:, first : first + self.num_local_experts].contiguous()
        own_counts_P = self._counts_NP[dist.get_rank(self.ep_group)]
        self.num_out_tokens = int(own_counts_P.sum())
        self.input_splits = own_counts_P.view(self.ep_size, -1).sum(dim=1).tolist()
        self.output_splits = local_counts.sum(dim=1).tolist()
        self.num_global_tokens_per_local_expert = local_counts
        return local_counts.sum(dim=0)

    def token_dispatch(self, permutated_local_input_tokens: Tensor, permuted_probs: Tensor) -> tuple[Tensor, Tensor]:
        """Sends rows and gate values to the ranks of their experts.

        Args:
            permutated_local_input_tokens: [T, D].
            permuted_probs: [T].

        Returns:
            Rows [R, D] and gate values [R].
        """
        return ExchangeWeightedRows.apply(
            permutated_local_input_tokens, permuted_probs, self.ep_group, self.output_splits, self.input_splits
        )

    def token_combine(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Sends the experts' outputs home.

        Args:
            hidden_states: [R, D].

        Returns:
            Rows [T, D] in the order in which they left.
        """
        return ExchangeRows.apply(hidden_states, self.ep_group, self.input_splits, self.output_splits)

    def _maybe_dtoh_and_synchronize(self, point: str, tokens_per_expert: Any = None) -> Any:  # noqa: ARG002
        return tokens_per_expert

    def _maybe_update_cuda_sync_point(self, point: str) -> None:
        pass
