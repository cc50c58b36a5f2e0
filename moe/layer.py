"""The expert-parallel mixture-of-experts layer.

Shape suffixes: S sequence, B batch, D model width, E experts of a layer.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from moe.config import MoEConfig
from moe.dispatch import HomeReturnDispatcher
from moe.router import PortableTopKRouter
from moe.seed import derive_seed


class PlacedMoELayer(MoELayer):
    """A Megatron-Core MoE layer whose experts live where a placement says, on CPU and on GPU.

    ``forward`` takes and gives [S, B, D]. Initial weights are a function of (seed, layer, logical expert) alone: they
    do not depend on the world size, on the placement or on what was drawn before.
    """

    router: PortableTopKRouter

    def __init__(self, config: TransformerConfig, layer: int, seed: int, slot_to_expert: np.ndarray) -> None:
        """Builds the layer on the process groups of ``megatron.core.parallel_state``.

        Args:
            config: Megatron's configuration, see :func:`transformer_config`.
            layer: index of the block in its model, from 0.
            seed: seed of the initial weights.
            slot_to_expert: logical expert of each physical slot of the expert-parallel group, int [E].
        """
        specification = get_moe_module_spec(use_te=False, num_experts=config.num_moe_experts)
        assert isinstance(specification.submodules, MoESubmodules)
        submodules = replace(specification.submodules, router=PortableTopKRouter)
        groups = get_default_pg_collection()
        # Megatron chooses the dispatcher itself, and its all-to-all needs CUDA to be built at all.
        portable = copy.copy(config)
        portable.moe_token_dispatcher_type = "allgather"
        super().__init__(portable, submodules, layer + 1, groups)
        self.config = config
        self.set_layer_number(layer + 1)
        self.layer = layer
        self.token_dispatcher = HomeReturnDispatcher(
            self.num_local_experts, self.local_expert_indices, config, groups, slot_to_expert
        )
        self.local_experts = [int(slot_to_expert[slot]) for slot in self.local_expert_indices]
        self._initialise(seed)

    def expert_parameters(self) -> dict[int, dict[str, nn.Parameter]]:
        """The parameters of the experts that live on this rank.

        Returns:
            For each logical expert id, its parameters by name (``linear_fc1.weight``, ``linear_fc2.weight``).
        """
        return {
            expert: dict(module.named_parameters())
            for expert, module in zip(self.local_experts, self.experts.local_experts, strict=True)
        }

    def forward(self, hidden_states: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Routes, dispatches, computes and combines.

        Args:
            hidden_states: [S, B, D].

        Returns:
            The gate-weighted sum of the chosen experts' outputs, [S, B, D].
        """
        return super().forward(hidden_states)[0]

    def _initialise(self, seed: int) -> None:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(derive_seed(seed, "router", self.layer))
            nn.init.normal_(self.router.weight, std=0.02, generator=generator)
            for expert, parameters in self.expert_parameters().items():
                generator = torch.Generator().manual_seed(derive_seed(seed, "expert", self.layer, expert))
                for weight in parameters.values():
                    nn.init.xavier_uniform_(weight, generator=generator)


def transformer_config(
    config: MoEConfig, *, hidden: int, num_layers: int, num_heads: int, expert_parallel: int, dtype: torch.dtype
) -> TransformerConfig:
    """Translates a run's configuration to Megatron's.

    Args:
        config: the mixture of experts.
        hidden: model width D.
        num_layers: blocks of the model.
        num_heads: attention heads of the model.
        expert_parallel: ranks that share the experts of a layer.
        dtype: type of the parameters.

    Returns:
        Megatron's configuration of the MoE layers.
    """
    return TransformerConfig(
        num_layers=num_layers,
        hidden_size=hidden,
        num_attention_heads=num_heads,
        ffn_hidden_size=config.expert_hidden,
        moe_ffn_hidden_size=config.expert_hidden,
        num_moe_experts=config.num_experts,
        expert_model_parallel_size=expert_parallel,
        moe_router_topk=config.top_k,
        moe_router_score_function=config.router.score,
        moe_router_pre_softmax=config.router.score == "softmax" and config.router.normalise_over == "all",
        moe_router_load_balancing_type="aux_loss" if config.router.aux_loss else "none",
        moe_aux_loss_coeff=config.router.aux_loss,
        moe_z_loss_coeff=config.router.z_loss or None,
        moe_router_dtype="fp64" if dtype == torch.float64 else "fp32",
        moe_token_dispatcher_type="alltoall",
        add_bias_linear=False,
        params_dtype=dtype,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
