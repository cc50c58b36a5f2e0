"""How time and class steer a network of a flow, and how samples are drawn with it."""

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


@torch.no_grad()
def sample(network: nn.Module, x: Tensor, label: Tensor, settings: dict, *, steps: int, guidance: float) -> Tensor:
    """Follows the flow from the source (time 0) to the data (time 1) by Euler's method.

    Args:
        network: predicts what `settings["predicts"]` says: the velocity dx/dt; or, on the straight path
            (1 - t) noise + t data, the noise or the data, which give the velocity.
        x: starts [B, ...].
        label: classes [B]; `settings["num_classes"]` stands for none.
        settings: of the network.
        steps: of the same length.
        guidance: 1: as the class says; 0: as no class; above 1: sharper and less varied.

    Returns:
        Samples in the units of the data.
    """
    times = torch.linspace(0, 1, steps + 1)
    for step in range(steps):
        t, t_next = times[step], times[step + 1]
        now = t.expand(len(x))
        found = network(x, now, label)
        if guidance != 1:
            unlabelled = network(x, now, torch.full_like(label, settings["num_classes"]))
            found = unlabelled + guidance * (found - unlabelled)
        if settings["predicts"] == "data":
            found = found - (x - t * found) / (1 - t).clamp_min(1e-3)
        elif settings["predicts"] == "noise":
            found = (x - (1 - t) * found) / t.clamp_min(1e-3) - found
        x = x + (t_next - t) * found
    return x / settings["data_scale"]
