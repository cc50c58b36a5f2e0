"""Spaces of states, and what of an image a network is conditioned on: holes to fill, or a semantic map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from moe.host_copies import to_device
from netsim.foundation.settings import Section

Shape = tuple[int, int, int]


class Space(Protocol):
    """Encodes examples into the states of a flow, and decodes states into images or points."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """Encodes examples [B, *shape] into states [B, *D] of about zero mean and unit variance, without gradient."""
        ...

    def decode(self, states: Tensor) -> Tensor:
        """The images or points [B, *shape] of states [B, *D]; differentiable in the states."""
        ...

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """Examples as the decoder returns them, so that they can be compared with decoded states."""
        ...


class Identity(Space):
    """The states are the examples themselves."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return examples

    def decode(self, states: Tensor) -> Tensor:
        return states

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return examples


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
    """Draws hidden pixels, bool [num, 1, height, width] on the CPU, some in each image; its sides are 2 or more."""
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


@dataclass(frozen=True)
class Seen:
    """The context of a batch of images.

    Attributes:
        context: [B, C', h, w] the input of the network.
        picture: [B, C, H, W] the same as an image for display; known pixels keep their values.
        hole: bool [B, 1, H, W] the pixels to be drawn.
    """

    context: Tensor
    picture: Tensor
    hole: Tensor

    def completed(self, drawn: Tensor) -> Tensor:
        """Images [B, C, H, W] that were drawn, with the known pixels in their places."""
        return torch.where(self.hole.to(drawn.device), drawn, self.picture.to(drawn.device))

    def rows(self, index: Tensor) -> Seen:
        return Seen(self.context[index], self.picture[index], self.hole[index])


class Context(Protocol):
    """Makes contexts of images."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        """Draws the context of images [B, C, H, W] in [-1, 1], encoding its pixels in the space of the states."""
        ...


class Inpainting(Section):
    """The context is the image with some pixels hidden, and the mask of these pixels.

    The image with grey holes, encoded, and one channel with the hidden share of each place. The loss covers the whole
    state; drawn images get the known pixels back. Dao et al., arXiv 2307.08698, section 4.2.
    """

    kind: Literal["inpainting"] = "inpainting"
    mask: MaskConfig = BoxesConfig()
    """How the hidden pixels are chosen."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        num, _, height, width = images.shape
        hole = to_device(draw_holes(self.mask, num, height, width, generator=generator), images.device)
        picture = images.masked_fill(hole, 0)
        known = space.encode(picture, generator=generator)
        rows, columns = known.shape[2:]
        share = functional.adaptive_avg_pool2d(hole.to(known.dtype), (rows, columns))
        return Seen(torch.cat([known, share], dim=1), picture, hole)

    def shape(self, *, example: tuple[int, ...], state: tuple[int, ...]) -> Shape:  # noqa: ARG002
        channels, rows, columns = state
        return channels + 1, rows, columns


class SemanticMap(Section):
    """The context is the level of brightness of each block of the image, one of a few.

    One channel a level, 1 where the image has it, at its resolution. Dao et al., arXiv 2307.08698, section 4.2, have
    parts of a face.
    """

    kind: Literal["semantic_map"] = "semantic_map"
    levels: int = Field(default=3, ge=2)
    """Levels of brightness that are told apart."""
    block: PositiveInt = 2
    """Side of a block in pixels; it divides the sides of the image."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:  # noqa: ARG002
        levels = self.block_levels(images)
        whole = levels.repeat_interleave(self.block, 1).repeat_interleave(self.block, 2)
        context = functional.one_hot(whole, self.levels).movedim(3, 1).to(images.dtype)
        picture = (2 * whole / (self.levels - 1) - 1)[:, None].to(images.dtype).expand_as(images)
        return Seen(context, picture, torch.ones_like(images[:, :1], dtype=torch.bool))

    def block_levels(self, images: Tensor) -> Tensor:
        """The map int64 [B, H / block, W / block] of images in [-1, 1], each 0 (dark) to levels - 1 (bright)."""
        brightness = functional.avg_pool2d(images.mean(1, keepdim=True), self.block)[:, 0]
        return (0.5 * (brightness + 1) * self.levels).floor().long().clamp(0, self.levels - 1)

    def shape(self, *, example: tuple[int, ...], state: tuple[int, ...]) -> Shape:  # noqa: ARG002
        _, height, width = example
        return self.levels, height, width


AnyConfig = Inpainting | SemanticMap
Config = Annotated[AnyConfig, Field(discriminator="kind")]
