"""Images with hidden pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.random.keyed import fold_in
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.picture import BadPicture, read_picture
from trainer.flow.context.mask import BoxesConfig, CentreConfig, draw_holes
from trainer.flow.operator.protocol import Operator

WHITE = 128
"""Pixels of a mask that are at least as bright are hidden."""


class PictureConfig(Section):
    """A mask that somebody has painted, the same for all images."""

    kind: Literal["picture"] = "picture"
    path: Path
    """A picture, white where pixels are hidden and black elsewhere; it is cut and resized as the images are."""


class MaskConfig(Section):
    """Some pixels are hidden, the others are observed as they are."""

    kind: Literal["mask"] = "mask"
    mask: Annotated[CentreConfig | BoxesConfig | PictureConfig, Field(discriminator="kind")] = CentreConfig()
    """How the hidden pixels are chosen."""


class Mask(Operator):
    """Hidden pixels are 0 in the observations, which have the shape of the images [B, C, H, W].

    Attributes:
        hole: bool [B, 1, H, W], or [1, 1, H, W] if all images have the same: the hidden pixels.
    """

    def __init__(self, hole: Tensor) -> None:
        self.hole = hole

    def apply(self, images: Tensor, /) -> Tensor:
        """See `Operator.apply`."""
        return images.masked_fill(self.hole, 0)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """See `Operator.adjoint`."""
        return observed.masked_fill(self.hole, 0)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """See `Operator.pseudo_inverse`; hidden pixels are 0, which is grey."""
        return observed.masked_fill(self.hole, 0)


def holes(config: MaskConfig, shape: tuple[int, int, int], numbers: Tensor, *, seed: int) -> Tensor:
    """The hidden pixels of images.

    Args:
        config: of the mask.
        shape: (C, H, W) of an image.
        numbers: int64 [B] of the images. Random boxes are a function of the seed and the number.
        seed: of the random boxes.

    Returns:
        bool [B, 1, H, W], or [1, 1, H, W] if all images have the same, on the CPU.

    Raises:
        Refusal: the picture of a mask cannot be read, or hides all pixels or none.
        ValueError: the image has a side of one pixel.
    """
    _, height, width = shape
    if min(height, width) < 2:
        raise ValueError(f"shape: an image of {height} x {width} pixels has no inside to hide; use larger images")
    match config.mask:
        case PictureConfig(path=path):
            return _painted(path, height, width)
        case CentreConfig() as mask:
            return draw_holes(mask, 1, height, width, generator=torch.Generator())
        case BoxesConfig() as mask:
            keys = fold_in(torch.tensor(seed), numbers.cpu()).tolist()
            drawn = [draw_holes(mask, 1, height, width, generator=torch.Generator().manual_seed(key)) for key in keys]
            return torch.cat(drawn)


def _painted(path: Path, height: int, width: int) -> Tensor:
    try:
        pixels = torch.from_numpy(read_picture(path, 1, height, width).copy())
    except BadPicture as error:
        raise Refusal(path, "mask.path", str(error), "give a picture, white where pixels are hidden") from error
    hole = (pixels >= WHITE)[None]
    share = float(hole.double().mean())
    if share in (0.0, 1.0):
        told = "no pixel" if share == 0 else "every pixel"
        problem = f"hides {told} at {height} x {width} pixels"
        raise Refusal(path, "mask.path", problem, "paint what is to be filled in white, and the rest in black")
    return hole
