"""A diffusion transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.oracle.plain_networks.flow import modulate, steering, time_layers, waves


class Block(nn.Module):
    """Attention and a feed-forward layer, each shifted, scaled and gated by the steering vector."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        hidden = settings["hidden"]
        self.head_width, self.epsilon = hidden // settings["num_heads"], settings["feed_forward_norm_epsilon"]
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.projection = nn.Linear(hidden, hidden)
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.feed_forward = feed_forward(settings)

    def forward(self, tokens: Tensor, steered: Tensor) -> Tensor:
        """From tokens [B, N, hidden] and what steers them [B, hidden] to [B, N, hidden]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(steered)[:, None].chunk(6, dim=-1)
        heads = self.qkv(modulate(tokens, shift_1, scale_1)).unflatten(2, (3, -1, self.head_width))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + gate_1 * self.projection(attended.transpose(1, 2).flatten(2))
        return tokens + gate_2 * self.feed_forward(modulate(tokens, shift_2, scale_2, self.epsilon))


class DiT(nn.Module):
    """A transformer over image patches, steered by time and class."""

    def __init__(self, settings: dict, feed_forward: type[nn.Module]) -> None:
        super().__init__()
        self.hidden, self.size = settings["hidden"], settings["patch_size"]
        channels, height, width = settings["shape"]
        self.rows, self.columns = height // self.size, width // self.size
        patch_values = channels * self.size**2
        self.embed_patches = nn.Linear(patch_values, self.hidden)
        self.embed_time = time_layers(self.hidden)
        self.embed_label = nn.Embedding(settings["num_classes"] + 1, self.hidden)
        self.blocks = nn.ModuleList(Block(settings, feed_forward) for _ in range(settings["num_layers"]))
        self.final_modulation = nn.Linear(self.hidden, 2 * self.hidden)
        self.unembed_patches = nn.Linear(self.hidden, settings["num_fields"] * patch_values)

    def positions(self) -> Tensor:
        """Waves of the row and of the column of each patch, [N, hidden]."""
        rows, columns = (torch.arange(length, dtype=torch.float32) for length in (self.rows, self.columns))
        by_row = waves(rows, self.hidden // 2)[:, None].expand(-1, self.columns, -1)
        by_column = waves(columns, self.hidden // 2)[None].expand(self.rows, -1, -1)
        return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """From states [B, C, H, W], times [B] and labels [B] to predictions [B, fields C, H, W]."""
        steered, p = steering(self.embed_time, self.embed_label, t, label), self.size
        squares = x.unflatten(3, (self.columns, p)).unflatten(2, (self.rows, p)).permute(0, 2, 4, 1, 3, 5)
        tokens = self.embed_patches(squares.flatten(3).flatten(1, 2)) + self.positions()
        for block in self.blocks:
            tokens = block(tokens, steered)
        shift, scale = self.final_modulation(steered)[:, None].chunk(2, dim=-1)
        patches = self.unembed_patches(modulate(tokens, shift, scale))
        squares = patches.unflatten(2, (-1, p, p)).unflatten(1, (self.rows, self.columns))
        return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
