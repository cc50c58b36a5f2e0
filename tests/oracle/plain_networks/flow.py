"""How time and class steer a network of a flow."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def waves(values: Tensor, width: int) -> Tensor:
    """Cosines and sines of values [..] at width / 2 frequencies, [.., width]."""
    exponents = torch.arange(width // 2, dtype=torch.float32) / (width // 2)
    angles = values.float()[..., None] * torch.exp(-math.log(10_000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def time_layers(hidden: int) -> nn.Sequential:
    """What waves of the time go through."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


def steering(time: nn.Sequential, classes: nn.Embedding, t: Tensor, label: Tensor) -> Tensor:
    """The vector [B, hidden] that steers every block, from times [B] and labels [B], by what embeds them."""
    return functional.silu(time(waves(1000.0 * t, classes.embedding_dim)) + classes(label))


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Normalises tokens [B, N, hidden], then scales by 1 + scale and shifts them."""
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=epsilon) * (1 + scale) + shift


class FeedForward(nn.Sequential):
    """The dense feed-forward layer of a block."""

    def __init__(self, settings: dict) -> None:
        hidden, inner = settings["hidden"], settings["inner"]
        gelu = nn.GELU(approximate="tanh" if settings["feed_forward"] == "gelu_tanh" else "none")
        super().__init__(nn.Linear(hidden, inner), gelu, nn.Linear(inner, hidden))
