"""Time, class and context as inputs of a network's blocks, and images as rows of patches.

Shape suffixes: B batch, C channels, H W pixels, N patches or other tokens, P values of a patch, D width.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.mlp import INPUT_WAVES
from trainer.model.network import Constant, Initial, by_inputs

LARGEST_PERIOD = 10_000.0
TIME_SCALE = 1_000.0


class Embeddings(Protocol):
    embed_time: nn.Sequential
    embed_label: nn.Embedding


class Steered(Embeddings, Protocol):
    """A network that embeds the time, from its sinusoids [B, D], and the class; `null_label` stands for no class."""

    hidden: int
    null_label: int


def steering(network: Steered, t: Tensor, label: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The vector [B, D] that modulates every block, from times [B] in [0, 1] and classes int64 [B]; None: no class."""
    waves_BW = wave_embedding(TIME_SCALE * t, network.hidden).to(dtype)
    return steered_by(network, waves_BW, known_label(network.null_label, t, label))


def known_label(null_label: int, t: Tensor, label: Tensor | None) -> Tensor:
    return torch.full(t.shape, null_label, device=t.device) if label is None else label


def steered_by(embeddings: Embeddings, waves_BW: Tensor, label_B: Tensor, caption_BD: Tensor | None = None) -> Tensor:
    """The vector [B, D] that steers a block, from waves of the time, labels and embedded captions."""
    embedded_BD = embeddings.embed_time(waves_BW) + embeddings.embed_label(label_B)
    return functional.silu(embedded_BD if caption_BD is None else embedded_BD + caption_BD)


def embedded_caption(layer: nn.Linear | None, t: Tensor, caption: Tensor | None) -> Tensor | None:
    """The captions' part [B, D] of the steering vector. Captions are [B, W], zeros for none; None: the bias alone."""
    if layer is None:
        return None
    if caption is None:
        caption = torch.zeros(len(t), layer.in_features, device=t.device)
    return layer(caption.to(next(chain(layer.parameters(), layer.buffers())).dtype))  # frozen weights are buffers


def time_embedding(width: int, waves: int | None = None) -> nn.Sequential:
    """Layers from `waves` sinusoids of the time (None: as many as `width`) to the steering vector."""
    return nn.Sequential(nn.Linear(waves or width, width), nn.SiLU(), nn.Linear(width, width))


def modulate(tokens_BND: Tensor, shift: Tensor, scale: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Normalises tokens [B, N, D], then scales by 1 + scale and shifts them; both [B, 1, D]."""
    return functional.layer_norm(tokens_BND, tokens_BND.shape[-1:], eps=epsilon) * (1 + scale) + shift


def with_waves(values: Tensor) -> Tensor:
    """Values [.., P], followed by their sines and by their cosines at some frequencies, [.., P (1 + 2 INPUT_WAVES)]."""
    frequencies = 2.0 ** (torch.arange(INPUT_WAVES, device=values.device) / 2)
    angles = (values[..., None] * frequencies).flatten(-2)
    return torch.cat([values, angles.sin(), angles.cos()], dim=-1)


def wave_embedding(values: Tensor, width: int) -> Tensor:
    """Cosines and sines of values [...] at width / 2 frequencies, float32 [..., width]."""
    exponents = torch.arange(width // 2, device=values.device, dtype=torch.float32) / (width // 2)
    angles = values.float()[..., None] * torch.exp(-math.log(LARGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that cover an image, row by row; `size` pixels a side."""

    rows: int
    columns: int
    size: int

    def patches(self, images: Tensor) -> Tensor:
        batch, channels = images.shape[:2]
        p = self.size
        patches = images.view(batch, channels, self.rows, p, self.columns, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(batch, self.rows * self.columns, channels * p * p)

    def images(self, patches_BNP: Tensor) -> Tensor:
        """Puts patches together to images [B, C, H, W]."""
        p = self.size
        patches = patches_BNP.unflatten(2, (-1, p, p)).unflatten(1, (self.rows, self.columns))
        return patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def positions(self, width: int) -> Tensor:
        """Sinusoids of the row and of the column of each patch, [N, D]."""
        rows, columns = (torch.arange(length, dtype=torch.float32) for length in (self.rows, self.columns))
        by_row = wave_embedding(rows, width // 2)[:, None].expand(-1, self.columns, -1)
        by_column = wave_embedding(columns, width // 2)[None].expand(self.rows, -1, -1)
        return torch.cat([by_row, by_column], dim=-1).reshape(self.rows * self.columns, width)


def beside_context(x_t: Tensor, context: Tensor | None, read_context: nn.Module | None) -> Tensor:
    """The network's input [B, C + C', H, W]: states [B, C, H, W] and context, joined by `read_context` if given."""
    if context is None:
        return x_t
    return torch.cat([x_t, context.to(x_t.dtype)], dim=1) if read_context is None else read_context(x_t, context)


class SpatialRescaler(nn.Conv2d):
    """Halves a map by averages over 2 x 2 places, mixes its channels and puts them behind those of a state: Rombach et
    al., 2022, appendix D; arXiv 2307.08698, section 4.2.
    """

    def __init__(self, num_read: int, num_written: int, halvings: int) -> None:
        super().__init__(num_read, num_written, 1)
        self.halvings = halvings

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name == "bias" else by_inputs(math.prod(shape[1:]))

    def forward(self, x_t: Tensor, context: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        values = context.to(self.weight.dtype)
        for _ in range(self.halvings):
            values = functional.interpolate(values, scale_factor=0.5, mode="bilinear", align_corners=False)
        return torch.cat([x_t, super().forward(values).to(x_t.dtype)], dim=1)


WIDENED = 4
"""Channels between the two convolutions, for each of a frame."""


class FirstFrameReader(nn.Module):
    """Subtracts from each frame of a state the output of two convolutions of the first frame.

    Both ends of a path are shifted equally, which does not change its velocity. The second convolution starts at zero,
    as does the one of fine details, so that a network starts as one without a context.

    Source: FlashI2V, arXiv 2509.25187.
    """

    def __init__(self, channels: int, *, with_details: bool) -> None:
        super().__init__()
        self.channels = channels
        self.widen = nn.Conv2d(channels, WIDENED * channels, 3, padding=1)
        self.narrow = nn.Conv2d(WIDENED * channels, channels, 3, padding=1)
        self.details = nn.Conv2d(channels, channels, 1) if with_details else None

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        if name == "widen.weight":
            return by_inputs(math.prod(shape[1:]))
        return Constant(0.0)

    def shift(self, frame_BCHW: Tensor) -> Tensor:
        """The shift [B, C, H, W] that is subtracted from each frame."""
        return self.narrow(nn.functional.silu(self.widen(frame_BCHW.to(self.widen.weight.dtype))))

    def forward(self, x_t_BTCHW: Tensor, context_BCHW: Tensor) -> Tensor:
        """The network's input [B, T C + C', H, W], from states whose frames and channels share one axis."""
        frame, fine = context_BCHW[:, : self.channels], context_BCHW[:, self.channels :]
        shift = self.shift(frame).to(x_t_BTCHW.dtype)
        shifted = x_t_BTCHW - shift.repeat(1, x_t_BTCHW.shape[1] // self.channels, 1, 1)
        if self.details is None:
            return shifted
        return torch.cat([shifted, self.details(fine.to(self.details.weight.dtype)).to(shifted.dtype)], dim=1)
