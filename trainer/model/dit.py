"""A diffusion transformer; cosines and sines are rounded as in diffusers, so that its networks give equal results.

Shape suffixes: B batch, N tokens (patches), D width, H heads, A tokens whose attention is requested, M tokens that are
attended to.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import BlockwiseConfig, CausalTransitionConfig, DiTConfig
from trainer.config.model.dit import DIFFUSERS_TIME_WAVES
from trainer.flow.condition import Condition
from trainer.flow.question import KeysAndValues, Question, WithAttention
from trainer.model.conditioning import (
    TIME_SCALE,
    PatchGrid,
    beside_context,
    embedded_caption,
    known_label,
    modulate,
    steered_by,
    time_embedding,
    wave_embedding,
)
from trainer.model.network import Builders, Initial, Network, NetworkSpec, computing_dtype, steered
from trainer.model.parallel.division import Columns, Rows, SumsOverRanks

LARGEST_PERIOD = 10_000.0
TIMESTEPS = 1000
"""Of the diffusion, numbered from 0 beside the data. Timestep n is at t = 1 - (n + 1) / 1000, as in a path of kind
diffusion_steps."""


def timestep_waves(t: Tensor) -> Tensor:
    """Cosines and sines of the timesteps 1000 (1 - t) - 1 >= 0 at frequencies 1 to 1 / 10,000: float32 [B, 256]."""
    half = DIFFUSERS_TIME_WAVES // 2
    exponents = -math.log(LARGEST_PERIOD) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
    timesteps = (TIMESTEPS * (1 - t) - 1).clamp_min(0).float()
    angles = timesteps[:, None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def place_waves(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of the column, then of the row of each patch, float32 [N, D]."""
    frequencies = LARGEST_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def waves(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_column = waves(columns)[None].expand(rows, -1, -1)
    by_row = waves(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=2).flatten(0, 1).float()


class DiT(Network):
    """A transformer over image patches, steered through adaLN-Zero; blocks start as the identity, the output at zero.

    Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, section 3.
    """

    def __init__(self, spec: NetworkSpec[DiTConfig]) -> None:
        super().__init__()
        config, num_classes = spec.config, spec.num_classes
        channels, height, width = spec.image_shape
        self.hidden, self.null_label = config.hidden, num_classes
        self.grid = PatchGrid(height // config.patch_size, width // config.patch_size, config.patch_size)
        area = config.patch_size**2
        self.read_context = spec.read_context
        self.embed_patches = nn.Linear((channels + spec.context_channels) * area, config.hidden)
        self.of_diffusers, self.channels_out = config.waves == "diffusers", spec.num_fields * channels
        self.embed_time = time_embedding(config.hidden, config.time_waves)
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden)
        self.embed_caption = nn.Linear(spec.caption_width, config.hidden) if spec.caption_width else None
        feed_forward = spec.mixture or (lambda _: FeedForward(config.hidden, config.inner, config.feed_forward))

        def block(layer: int) -> Block:
            if layer and config.embeddings == "each_block":
                return SelfSteeredBlock(config, feed_forward(layer), num_classes)
            return Block(config, feed_forward(layer))

        self.blocks = nn.ModuleList(map(block, range(config.num_layers)))
        self.final_modulation = nn.Linear(config.hidden, 2 * config.hidden)
        outputs = (2 if config.predicts_variance else 1) * self.channels_out
        self.unembed_patches = nn.Linear(config.hidden, outputs * area)
        self.register_buffer("positions", self._places(self.grid), persistent=False)
        self._others: dict[tuple[int, int], tuple[PatchGrid, Tensor]] = {}

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        tables = ("embed_label", *(f"blocks.{layer}.embed_label" for layer in range(len(self.blocks))))
        return steered(name, shape, at_zero=("unembed_patches",), embeddings=tables)

    def forward(
        self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Float32 [B, num_fields C, H, W], with `WithAttention` also [B, A, N]; patches have to cover H x W."""
        request = question if isinstance(question, WithAttention) else None
        features_BND, attention_BAN = self._features(x_t, t, condition, request)
        grid, _ = self._grid_of(x_t)
        predicted = grid.images(self.unembed_patches(features_BND).float())
        predicted = predicted if predicted.shape[1] == self.channels_out else predicted[:, : self.channels_out]
        return predicted if attention_BAN is None else (predicted, attention_BAN)

    def tokens(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Features of patches [B, N, D], which the prediction is made of."""
        return self._features(x_t, t, condition, None)[0]

    def _features(
        self, x_t: Tensor, t: Tensor, condition: Condition, request: WithAttention | None
    ) -> tuple[Tensor, Tensor | None]:
        dtype = computing_dtype(self)
        waves_BW = (timestep_waves(t) if self.of_diffusers else wave_embedding(TIME_SCALE * t, self.hidden)).to(dtype)
        label_B = known_label(self.null_label, t, condition.label)
        caption_BD = embedded_caption(self.embed_caption, t, condition.caption)
        steering_BD = steered_by(self, waves_BW, label_B, caption_BD)
        seen = beside_context(x_t, condition.context, self.read_context)
        grid, positions_ND = self._grid_of(x_t)
        tokens_BND = self.embed_patches(grid.patches(seen).to(dtype)) + positions_ND.to(dtype)
        attentions = []
        for number, block in enumerate(self.blocks):
            alone = isinstance(block, SelfSteeredBlock)
            steers = (waves_BW, label_B, caption_BD) if alone else (steering_BD,)
            if request is None or (request.blocks is not None and number not in request.blocks):
                tokens_BND = block(tokens_BND, *steers)
            else:
                tokens_BND, attention_BAN = block(tokens_BND, *steers, looking=request.tokens)
                attentions.append(attention_BAN)
        shift, scale = self.final_modulation(steering_BD)[:, None].chunk(2, dim=-1)
        mean_BAN = torch.stack(attentions).mean(0) if attentions else None
        return modulate(tokens_BND, shift, scale), mean_BAN

    def _grid_of(self, x_t: Tensor) -> tuple[PatchGrid, Tensor]:
        """The patch grid and the position embedding of a shape; made once for each shape."""
        rows, columns = (side // self.grid.size for side in x_t.shape[-2:])
        if (rows, columns) == (self.grid.rows, self.grid.columns):
            assert isinstance(self.positions, Tensor)
            return self.grid, self.positions
        if (rows, columns) not in self._others:
            grid = PatchGrid(rows, columns, self.grid.size)
            self._others[rows, columns] = grid, self._places(grid).to(x_t.device)
        grid, positions = self._others[rows, columns]
        if positions.device != x_t.device:
            positions = positions.to(x_t.device)
            self._others[rows, columns] = grid, positions
        return grid, positions

    def _places(self, grid: PatchGrid) -> Tensor:
        return place_waves(grid.rows, grid.columns, self.hidden) if self.of_diffusers else grid.positions(self.hidden)


class Block(nn.Module):
    """Attention and a feed-forward layer, each shifted, scaled and gated by the steering vector."""

    def __init__(self, config: DiTConfig | BlockwiseConfig | CausalTransitionConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.dropout
        self.head_width = config.hidden // config.num_heads
        self.qkv: nn.Module = nn.Linear(config.hidden, 3 * config.hidden)
        self.projection: nn.Module = nn.Linear(config.hidden, config.hidden)
        self.modulation = nn.Linear(config.hidden, 6 * config.hidden)
        self.feed_forward = feed_forward
        self._over_ranks: Callable[[Tensor], Tensor] | None = None
        self.epsilon = config.feed_forward_norm_epsilon if isinstance(config, DiTConfig) else 1e-6

    def forward(
        self,
        tokens_BND: Tensor,
        steering_BD: Tensor,
        mask: Tensor | None = None,
        past: KeysAndValues | None = None,
        looking: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens [B, N, D] after the block; with `looking` also [B, A, M], their unmasked attention, mean over heads.

        Args:
            mask: bool [N, M], which of all M tokens each attends to; None: all of them.
            past: the KV cache of tokens read before, to which this call's are added.
            looking: int64 [A], tokens whose attention is returned.
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(steering_BD)[:, None].chunk(6, dim=-1)
        attended, attention_BAM = self._attention(modulate(tokens_BND, shift_1, scale_1), mask, past, looking)
        tokens_BND = tokens_BND + gate_1 * functional.dropout(attended, self.dropout, self.training)
        fed = self.feed_forward(modulate(tokens_BND, shift_2, scale_2, self.epsilon))
        tokens_BND = tokens_BND + gate_2 * functional.dropout(fed, self.dropout, self.training)
        return tokens_BND if attention_BAM is None else (tokens_BND, attention_BAM)

    def _attention(
        self, tokens_BND: Tensor, mask: Tensor | None, past: KeysAndValues | None, looking: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        heads = self.qkv(tokens_BND).unflatten(2, (3, -1, self.head_width))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.extended(key, value)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        projected = self.projection(attended.transpose(1, 2).flatten(2))
        return projected, None if looking is None else self._mean_attention(query[:, :, looking], key)

    def _mean_attention(self, query_BHAD: Tensor, key_BHMD: Tensor) -> Tensor:
        """The mean over all heads, those on other ranks included, of the attention of some tokens, [B, A, M]."""
        scores_BHAM = (query_BHAD @ key_BHMD.mT).float() / self.head_width**0.5
        mean_BAM = scores_BHAM.softmax(-1).sum(1) / self.num_heads
        return mean_BAM if self._over_ranks is None else self._over_ranks(mean_BAM)

    def divide(self, columns: Columns, rows: Rows) -> None:
        """Keeps this rank's heads and inner width."""
        self.qkv = columns(self.qkv, 3 * (self.modulation.in_features,))
        self.projection = rows(self.projection)
        if isinstance(self.projection, SumsOverRanks):
            self._over_ranks = self.projection.summed
        if isinstance(self.feed_forward, FeedForward):
            self.feed_forward.divide(columns, rows)


class SelfSteeredBlock(Block):
    """A block that embeds time and class itself."""

    def __init__(self, config: DiTConfig, feed_forward: nn.Module, num_classes: int) -> None:
        super().__init__(config, feed_forward)
        self.embed_time = time_embedding(config.hidden, config.time_waves)
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        tokens_BND: Tensor,
        waves_BW: Tensor,
        label_B: Tensor,
        caption_BD: Tensor | None,
        *,
        looking: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Takes waves of the time [B, W], classes int64 [B] and embedded captions [B, D], not the steering vector."""
        return super().forward(tokens_BND, steered_by(self, waves_BW, label_B, caption_BD), looking=looking)


class FeedForward(nn.Sequential):
    """Two linear layers; with swiglu the first gives the gate, then the gated values (Shazeer, 2020, equation 6)."""

    def __init__(
        self, hidden: int, inner: int, kind: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu", *, bias: bool = True
    ) -> None:
        sections = (inner, inner) if kind == "swiglu" else (inner,)
        active = Gated() if kind == "swiglu" else nn.GELU(approximate="tanh" if kind == "gelu_tanh" else "none")
        super().__init__(nn.Linear(hidden, sum(sections), bias=bias), active, nn.Linear(inner, hidden, bias=bias))
        self.sections = sections

    def divide(self, columns: Columns, rows: Rows) -> None:
        self[0], self[2] = columns(self[0], self.sections), rows(self[2])


class Gated(nn.Module):
    """The second half of the values, times the SiLU of the first half."""

    def forward(self, values: Tensor) -> Tensor:
        gate, gated = values.chunk(2, dim=-1)
        return functional.silu(gate) * gated


NETWORKS: Builders = {DiTConfig: DiT}
