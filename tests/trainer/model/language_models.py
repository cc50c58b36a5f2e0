"""Small language models whose weights are the same in every mode and at every world size."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe.config import MoEConfig, TopKRouterConfig
from trainer.config.model import GPTConfig
from trainer.model.dit import FeedForward
from trainer.model.gpt import GPT
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised

SIZES: dict[str, Any] = {"hidden": 24, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2, "context": 16}
EXPERTS, LENGTH = 8, 11


def dense(seed: int = 0, **changes: Any) -> GPT:
    """A model with dense feed-forward layers in float64."""
    config = GPTConfig(**{**SIZES, **changes})
    spec = NetworkSpec(config=config, state_shape=(), mixture=lambda _: FeedForward(config.hidden, 40, bias=False))
    model = initialised(GPT(spec), seed)
    return stirred(model.double())


def mixture(mode: str, top_k: int, world_size: int, dtype: torch.dtype = torch.float64, **changes: Any) -> GPT:
    """A model with experts in home or coherent dispatch, each layer in a random placement of its own."""
    from moe.coherent_layer import CoherentMoELayer
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, top_k=top_k, expert_hidden=16, router=TopKRouterConfig(aux_loss=0.0))
    sizes = GPTConfig(**{**SIZES, **changes})
    megatron = transformer_config(
        config,
        hidden=sizes.hidden,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        expert_parallel=world_size,
        dtype=dtype,
    )
    kind = CoherentMoELayer if mode == "coherent" else PlacedMoELayer

    def feed_forward(layer: int) -> nn.Module:
        built = kind(config, megatron, layer, 3, np.random.default_rng(layer).permutation(EXPERTS))
        with torch.no_grad():
            built.router.weight.mul_(20)
        return built

    return stirred(initialised(GPT(NetworkSpec(config=sizes, state_shape=(), mixture=feed_forward)), 0).to(dtype))


def stirred(model: GPT) -> GPT:
    """The network away from its start, where attention is nearly uniform and every byte alike."""
    with torch.no_grad():
        for block in model.blocks:
            block.get_parameter("attention.query_key_value.weight").mul_(20)
            block.get_parameter("attention.projection.weight").mul_(20)
        model.embed.weight.mul_(20)
        model.unembed.weight.mul_(5)
    return model


def window(seed: int = 0, batch: int = 3, length: int = LENGTH) -> tuple[Tensor, Tensor]:
    """Bytes [B, N] and those behind them."""
    bytes_BN = torch.randint(256, (batch, length + 1), generator=torch.Generator().manual_seed(seed))
    return bytes_BN[:, :-1], bytes_BN[:, 1:]
