"""Masks of the pixels that are to be drawn."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from netsim.foundation.settings import Section


class CentreConfig(Section):
    """A block in the middle of the image, the same for all."""

    kind: Literal["centre"] = "centre"
    share: float = Field(default=0.5, gt=0, lt=1)
    """Its sides as a share of the sides of the image, rounded to whole pixels, at least one and not all."""


class BoxesConfig(Section):
    """Boxes of random sizes at random places, drawn for each image."""

    kind: Literal["boxes"] = "boxes"
    num: PositiveInt = 2
    """Number of boxes of an image; they may overlap."""
    smallest: float = Field(default=0.25, gt=0, lt=1)
    """Shortest side as a share of the side of the image."""
    largest: float = Field(default=0.5, gt=0, lt=1)
    """Longest side as a share of the side of the image."""

    @model_validator(mode="after")
    def _in_order(self) -> BoxesConfig:
        if self.smallest > self.largest:
            raise ValueError(f"smallest: {self.smallest} exceeds largest {self.largest}; exchange them")
        return self


MaskConfig = Annotated[CentreConfig | BoxesConfig, Field(discriminator="kind")]


def draw_holes(config: MaskConfig, num: int, height: int, width: int, *, generator: torch.Generator) -> Tensor:
    """Draws the pixels that are hidden.

    Args:
        config: the kind of mask.
        num: number of images.
        height: of an image, in pixels, at least 2.
        width: of an image, in pixels, at least 2.
        generator: of the draws.

    Returns:
        bool [num, 1, height, width], on the CPU; at least one pixel of each image is hidden.
    """
    match config:
        case CentreConfig(share=share):
            sides = [_pixels(share, length) for length in (height, width)]
            first = torch.tensor([[(height - sides[0]) // 2, (width - sides[1]) // 2]]).expand(num, 1, 2)
            last = first + torch.tensor(sides)
        case BoxesConfig(num=boxes):
            lengths = torch.tensor([height, width])
            shortest, longest = (
                torch.tensor([_pixels(share, length) for length in (height, width)])
                for share in (config.smallest, config.largest)
            )
            size, place = torch.rand(2, num, boxes, 2, generator=generator)
            sides_drawn = shortest + (size * (longest - shortest + 1)).long()
            first = (place * (lengths - sides_drawn + 1)).long()
            last = first + sides_drawn
    rows, columns = (
        (first[..., axis, None] <= torch.arange(length)) & (torch.arange(length) < last[..., axis, None])
        for axis, length in enumerate((height, width))
    )
    return (rows[..., None] & columns[..., None, :]).any(dim=1, keepdim=True)


def _pixels(share: float, length: int) -> int:
    return min(max(1, round(share * length)), length - 1)
