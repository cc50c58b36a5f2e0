"""Routers and tokens for tests."""

from typing import Any

import torch
from torch import Tensor

from moe.config import MoEConfig, RouterConfig

WIDTH, EXPERTS = 16, 8


def build_router(router: RouterConfig, *, experts: int = EXPERTS, top_k: int = 1, std: float = 0.3) -> Any:
    """A router on this process's groups with seeded weights."""
    from megatron.core.transformer.moe.moe_utils import get_default_pg_collection

    import moe.router
    from moe.layer import transformer_config

    config = MoEConfig(num_experts=experts, top_k=top_k, expert_hidden=8, router=router)
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=1, dtype=torch.float32
    )
    built = moe.router.build(config, config=megatron, pg_collection=get_default_pg_collection())
    torch.nn.init.normal_(built.weight, std=std, generator=torch.Generator().manual_seed(3))
    return built


def skewed_tokens(tokens: int, seed: int = 0) -> Tensor:
    """Tokens in clusters of unequal size, most of which want the same few experts; [tokens, 1, WIDTH]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(99))
    sizes = 1 / torch.arange(1, 13, dtype=torch.float32)
    cluster = torch.multinomial(sizes, tokens, replacement=True, generator=generator)
    return (centres[cluster] + 0.5 * torch.randn(tokens, WIDTH, generator=generator))[:, None]


def logits_of(router: Any, tokens: Tensor) -> Tensor:
    """What the gate makes of tokens, without its router: float64 [T, E]."""
    return tokens.reshape(-1, WIDTH).double() @ router.weight.detach().double().T
