"""A network for vectors."""

import torch
from torch import Tensor, nn

from tests.oracle.plain_networks.flow import modulate, steering, time_layers


class Block(nn.Module):
    """A feed-forward layer, shifted, scaled and gated by the steering vector."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        self.modulation = nn.Linear(settings["hidden"], 3 * settings["hidden"])
        self.feed_forward = feed_forward(settings)

    def forward(self, tokens: Tensor, steered: Tensor) -> Tensor:
        """From tokens [B, 1, hidden] and what steers them [B, hidden] to [B, 1, hidden]."""
        shift, scale, gate = self.modulation(steered)[:, None].chunk(3, dim=-1)
        return tokens + gate * self.feed_forward(modulate(tokens, shift, scale))


class MLP(nn.Module):
    """Residual blocks over a vector, steered by time and class."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        self.hidden, (values,) = settings["hidden"], settings["shape"]
        self.frequencies = 2.0 ** (torch.arange(settings["input_waves"]) / 2)
        self.embed_values = nn.Linear(values * (1 + 2 * settings["input_waves"]), self.hidden)
        self.embed_time = time_layers(self.hidden)
        self.embed_label = nn.Embedding(settings["num_classes"] + 1, self.hidden)
        self.blocks = nn.ModuleList(Block(settings, feed_forward) for _ in range(settings["num_layers"]))
        self.final_modulation = nn.Linear(self.hidden, 2 * self.hidden)
        self.unembed_values = nn.Linear(self.hidden, settings["num_fields"] * values)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """From states [B, P], times [B] and labels [B] to predictions [B, fields P]."""
        steered = steering(self.embed_time, self.embed_label, t, label)
        angles = (x[..., None] * self.frequencies).flatten(-2)
        tokens = self.embed_values(torch.cat([x, angles.sin(), angles.cos()], dim=-1))[:, None]
        for block in self.blocks:
            tokens = block(tokens, steered)
        shift, scale = self.final_modulation(steered)[:, None].chunk(2, dim=-1)
        return self.unembed_values(modulate(tokens, shift, scale))[:, 0]
