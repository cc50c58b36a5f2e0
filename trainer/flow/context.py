"""The space of a flow's states, and conditioning on images: holes to fill, a semantic map, or a first frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor
from torch.nn import functional

from moe.host_copies import to_device
from netsim.foundation.settings import Section

Shape = tuple[int, int, int]
Share = Annotated[float, Field(gt=0, lt=1)]


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
    """A block in the middle of the image, the same for all images."""

    kind: Literal["centre"] = "centre"
    share: float = Field(default=0.5, gt=0, lt=1)
    """Sides of the block as a share of the sides of the image, rounded to whole pixels, at least one and not all."""


class BoxesConfig(Section):
    """Boxes of random sizes at random places, drawn for each image."""

    kind: Literal["boxes"] = "boxes"
    num: PositiveInt = 2
    """Number of boxes of an image; they may overlap."""
    smallest: float = Field(default=0.25, gt=0, lt=1)
    """Shortest side of a box as a share of the side of the image."""
    largest: float = Field(default=0.5, gt=0, lt=1)
    """Longest side of a box as a share of the side of the image."""

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
        picture: [B, C, H, W] the context as an image for display; known pixels keep their values.
        hole: bool [B, 1, H, W] the pixels that the flow draws.
    """

    context: Tensor
    picture: Tensor
    hole: Tensor

    def completed(self, drawn: Tensor) -> Tensor:
        """The drawn images [B, C, H, W] with the known pixels put back."""
        return torch.where(self.hole.to(drawn.device), drawn, self.picture.to(drawn.device))

    def rows(self, index: Tensor) -> Seen:
        return Seen(self.context[index], self.picture[index], self.hole[index])


class Context(Protocol):
    """Makes contexts of images."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        """Draws the context of images [B, C, H, W] in [-1, 1], encoding its pixels in the space of the states."""
        ...

    def for_drawing(self) -> Self:
        """The context for sampling, which fixes the values that training draws at random."""
        return self

    def read_channels(self, state: tuple[int, ...], context: Shape) -> int:  # noqa: ARG002
        """Number of channels that the network reads beside the state's, after the layer that reads the context."""
        return context[0]


class Inpainting(Section):
    """The context is the image with some pixels hidden, and the mask of these pixels.

    The image with grey holes, encoded, and one channel with the hidden share of each place. The loss covers the whole
    state; drawn images get the known pixels back. Dao et al., arXiv 2307.08698, section 4.2.
    """

    kind: Literal["inpainting"] = "inpainting"
    mask: MaskConfig = BoxesConfig()
    """How the hidden pixels are chosen."""
    for_drawing = Context.for_drawing
    read_channels = Context.read_channels

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
    """Levels of brightness that count as different."""
    block: PositiveInt = 2
    """Side of a block in pixels; it divides the sides of the image."""
    for_drawing = Context.for_drawing

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

    def read_channels(self, state: tuple[int, ...], context: Shape) -> int:  # noqa: ARG002
        return state[0]


class FirstFrame(Section):
    """The context is the first frame of a clip, whose frames are the channels of the state.

    A network that reads the whole frame can copy it instead of learning motion. With `shift` the network does not read
    the frame: two convolutions of it are subtracted from the state. With `shift_fourier` the network also reads the
    frame's fine details: the magnitudes of its frequencies from a radius on, which leaves out the share `cut` of the
    sum of all magnitudes.

    Source: "FlashI2V: Fourier-Guided Latent Shifting", arXiv 2509.25187, and its published code.
    """

    kind: Literal["first_frame"] = "first_frame"
    reading: Literal["concat", "shift", "shift_fourier"] = "shift_fourier"
    """How the network reads the frame. concat: beside the state; shift: what two convolutions make of it is subtracted
    from each frame of the state; shift_fourier: as shift, and the fine details of the frame beside the state."""
    channels: Literal[1, 3] = 1
    """Channels of a frame."""
    cut: tuple[Share, Share] = (0.05, 0.95)
    """Smallest and largest cut that training draws for an example: the share of the frame's magnitudes, from the lowest
    frequency on, that its fine details lack."""
    drawn_cut: Share = 0.1
    """Cut with which clips are drawn, a share like `cut`; larger: fewer details of the frame are kept."""

    @model_validator(mode="after")
    def _in_order(self) -> FirstFrame:
        if self.cut[0] > self.cut[1]:
            raise ValueError(f"cut: {self.cut[0]} exceeds {self.cut[1]}; exchange them")
        return self

    def for_drawing(self) -> FirstFrame:
        return self.model_copy(update={"cut": (self.drawn_cut, self.drawn_cut)})

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:  # noqa: ARG002
        frame = images[:, : self.channels]
        picture = frame.repeat(1, images.shape[1] // self.channels, 1, 1)
        hole = torch.ones_like(images[:, :1], dtype=torch.bool)
        if self.reading != "shift_fourier":
            return Seen(frame, picture, hole)
        lowest, highest = self.cut
        share = lowest + (highest - lowest) * torch.rand(len(images), generator=generator)
        fine = fine_details(frame, to_device(share, frame.device))
        return Seen(torch.cat([frame, fine], dim=1), picture, hole)

    def shape(self, *, example: tuple[int, ...], state: tuple[int, ...]) -> Shape:  # noqa: ARG002
        _, height, width = example
        return self.channels * (2 if self.reading == "shift_fourier" else 1), height, width

    def read_channels(self, state: tuple[int, ...], context: Shape) -> int:  # noqa: ARG002
        return 0 if self.reading == "shift" else self.channels


def fine_details(frames: Tensor, share: Tensor) -> Tensor:
    """Magnitudes [B, C, H, W] of frames without the frequencies below a radius; computed in float32, without gradient.

    Frequencies are sorted by their distance from the middle of the spectrum. Their magnitudes, means over channels, are
    summed in this order. The radius is the distance of the first frequency at which the sum reaches the share [B] of
    the whole. Frequencies at the radius are kept, so that a constant frame, which has only the middle, stays.
    """
    with torch.no_grad():
        height, width = frames.shape[2:]
        spectrum = torch.fft.fftshift(torch.fft.fft2(frames.float()), dim=(2, 3))
        rows, columns = (torch.arange(n, device=frames.device) - n // 2 for n in (height, width))
        squares = (rows[:, None] ** 2 + columns**2).flatten()
        order = squares.argsort(stable=True)
        summed = spectrum.abs().mean(1).flatten(1)[:, order].cumsum(1)
        first = (summed < share[:, None] * summed[:, -1:]).sum(1).clamp(max=len(order) - 1)
        kept = squares >= squares[order[first]][:, None]
        high = torch.fft.ifft2(torch.fft.ifftshift(spectrum * kept.unflatten(1, (height, width))[:, None], dim=(2, 3)))
        return (high.real.square() + high.imag.square() + 1e-12).sqrt().to(frames.dtype)


AnyConfig = Inpainting | SemanticMap | FirstFrame
Config = Annotated[AnyConfig, Field(discriminator="kind")]
