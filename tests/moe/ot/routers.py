"""Logits of an untamed router: clustered tokens, a few clusters far more popular than the rest."""

import torch
from torch import Tensor

WIDTH = 32


def skewed_logits(num_tokens: int, num_experts: int, *, seed: int, drift: float = 0.0) -> Tensor:
    """Logits over their standard deviation, float64 [num_tokens, num_experts].

    Tokens come from 2 * num_experts clusters whose popularity falls as 1 / rank. A drift mixes noise of that relative
    size into the router's weights and draws other tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centres, weights = draw(2 * num_experts, WIDTH), draw(WIDTH, num_experts)
    if drift:
        generator.manual_seed(seed + 1)
        weights = weights + drift * draw(WIDTH, num_experts)
    popularity = 1 / torch.arange(1.0, 2 * num_experts + 1)
    clusters = torch.multinomial(popularity, num_tokens, replacement=True, generator=generator)
    logits = (centres[clusters] + 0.7 * draw(num_tokens, WIDTH)) @ weights
    return logits / logits.std()
