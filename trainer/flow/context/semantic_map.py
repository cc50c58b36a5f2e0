"""A map of the brightness of an image, block by block."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional

from netsim.foundation.settings import Section
from trainer.flow.context.protocol import Context, Seen
from trainer.flow.space import Space


class SemanticMapConfig(Section):
    """The context is the level of brightness of each block of the image, one of a few."""

    kind: Literal["semantic_map"] = "semantic_map"
    levels: int = Field(default=3, ge=2)
    """Levels of brightness that are told apart."""
    block: PositiveInt = 2
    """Side of a block in pixels; it divides the sides of the image."""


class SemanticMap(Context):
    """One channel for each level, 1 where the image has it, at the resolution of the image.

    Source: Dao et al., "Flow Matching in Latent Space", arXiv 2307.08698, section 4.2, with levels of brightness in
    place of the parts of a face.

    Args:
        config: of the map.
    """

    def __init__(self, config: SemanticMapConfig) -> None:
        self._config = config

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:  # noqa: ARG002
        """See `Context.draw`; the context is no random draw, and all pixels are to be drawn."""
        levels = block_levels(images, self._config)
        whole = levels.repeat_interleave(self._config.block, 1).repeat_interleave(self._config.block, 2)
        context = functional.one_hot(whole, self._config.levels).movedim(3, 1).to(images.dtype)
        picture = (2 * whole / (self._config.levels - 1) - 1)[:, None].to(images.dtype).expand_as(images)
        return Seen(context, picture, torch.ones_like(images[:, :1], dtype=torch.bool))


def block_levels(images: Tensor, config: SemanticMapConfig) -> Tensor:
    """The map of images.

    Args:
        images: [B, C, H, W], values in [-1, 1].
        config: of the map.

    Returns:
        int64 [B, H / block, W / block], each 0 (dark) to levels - 1 (bright).
    """
    brightness = functional.avg_pool2d(images.mean(1, keepdim=True), config.block)[:, 0]
    return (0.5 * (brightness + 1) * config.levels).floor().long().clamp(0, config.levels - 1)
