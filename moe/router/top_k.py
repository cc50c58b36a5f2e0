"""Top-k routing on any device."""

import copy

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor


class PortableTopKRouter(TopKRouter):
    """Megatron-Core's top-k router without its demand for CUDA and TransformerEngine.

    Selection, capacity, auxiliary losses and expert bias are Megatron's. Replaced are the gate's product (Megatron
    0.16 calls TransformerEngine even where that is absent, and moves the weight to the current CUDA device) and the
    device of the expert-bias buffers.

    Source: Shazeer et al., "Outrageously Large Neural Networks", 2017, section 2.1.
    """

    def __init__(self, config: TransformerConfig, pg_collection: ProcessGroupCollection | None = None) -> None:
        """Builds the gate.

        Args:
            config: Megatron's configuration of the layer.
            pg_collection: process groups (tp, cp, tp_cp, tp_dp_cp are used).
        """
        without_bias = copy.copy(config)
        without_bias.moe_router_enable_expert_bias = False
        super().__init__(config=without_bias, pg_collection=pg_collection)
        self.config = config
        assert config.num_moe_experts is not None
        self.enable_expert_bias = config.moe_router_enable_expert_bias
        if self.enable_expert_bias:
            for name, persistent in (("local_tokens_per_expert", False), ("expert_bias", True)):
                delattr(self, name)
                self.register_buffer(name, torch.zeros(config.num_moe_experts), persistent=persistent)

    def gating(self, input: Tensor) -> Tensor:
        """Gate logits.

        Args:
            input: tokens, [sequence, batch, hidden].

        Returns:
            Logits [sequence, batch, num_experts] in the router's own precision.
        """
        dtype = {"fp32": torch.float32, "fp64": torch.float64}.get(self.config.moe_router_dtype or "", input.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return torch.nn.functional.linear(input.to(dtype), self.weight.to(dtype), bias)
