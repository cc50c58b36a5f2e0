"""The linear operators: the whole image, means of blocks, a Gaussian blur, hidden pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from moe.seeds import fold_in
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.data.picture import BadPicture, read_picture
from trainer.flow.context import BoxesConfig, CentreConfig, draw_holes
from trainer.flow.operator.protocol import Operator


class IdentityConfig(Section):
    """Every pixel is observed. With noise in the observations and a soft consistency, this is the removal of noise."""

    kind: Literal["identity"] = "identity"


class Identity(Operator):
    """A x = x."""

    def apply(self, images: Tensor, /) -> Tensor:
        return images

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return observed

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return observed


class AveragePoolConfig(Section):
    """The mean of each block of pixels is observed: the image at a lower resolution."""

    kind: Literal["average_pool"] = "average_pool"
    factor: int = Field(default=2, ge=2)
    """Side of a block in pixels; it divides the sides of the image."""


class AveragePool(Operator):
    """From images [B, C, H, W] to the means of their blocks, [B, C, H / factor, W / factor]."""

    def __init__(self, factor: int, shape: tuple[int, int, int]) -> None:
        _, height, width = shape
        if height % factor or width % factor:
            fitting = [str(side) for side in range(2, min(height, width) + 1) if not (height % side or width % side)]
            remedy = f"use one of {', '.join(fitting)}" if fitting else "there is no such factor for these images"
            raise ValueError(f"factor: {factor} does not divide the {height} x {width} pixels of an image; {remedy}")
        self._factor = factor

    def apply(self, images: Tensor, /) -> Tensor:
        return functional.avg_pool2d(images, self._factor)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return self.pseudo_inverse(observed) / self._factor**2

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """Every pixel of a block has its mean."""
        return functional.interpolate(observed, scale_factor=self._factor, mode="nearest")


RADIUS = 4.0
"""Where the Gaussian is cut off, in standard deviations."""


class BlurConfig(Section):
    """Every observed pixel is a mean of those around it, weighted by a Gaussian."""

    kind: Literal["blur"] = "blur"
    deviation: PositiveFloat = 1.0
    """Standard deviation of the Gaussian in pixels."""
    least_singular_value: float = Field(default=0.05, gt=0, lt=1)
    """Waves that the Gaussian weakens by more than this are not observed at all, and 1 over it is the most by which
    the pseudo-inverse amplifies noise in the observations."""


class Blur(Operator):
    """A Gaussian along both axes, less its weakest singular vectors.

    Beyond the border the image goes on as its mirror image. One matrix for each axis holds the Gaussian, with singular
    values s_i and s_j; those of the blur are the products s_i s_j, and the small ones count as 0.
    """

    def __init__(
        self,
        deviation: float,
        least_singular_value: float,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        rows, columns = (torch.linalg.svd(gaussian(length, deviation)) for length in shape[1:])
        values = rows.S[:, None] * columns.S
        kept = values >= least_singular_value
        self._values = torch.where(kept, values, 0.0).float().to(device)
        self._inverse = torch.where(kept, 1 / values, 0.0).float().to(device)
        self._left = rows.U.float().to(device), columns.U.float().to(device)
        self._right = rows.Vh.T.float().to(device), columns.Vh.T.float().to(device)

    def apply(self, images: Tensor, /) -> Tensor:
        return _through(images, self._right, self._values, self._left)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return _through(observed, self._left, self._values, self._right)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return _through(observed, self._left, self._inverse, self._right)


def gaussian(length: int, deviation: float) -> Tensor:
    """The matrix of a Gaussian along an axis of so many pixels, float64 [length, length]; every row sums to 1."""
    radius = int(RADIUS * deviation + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = (-0.5 * (offsets / deviation) ** 2).double().softmax(0)
    places = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.where(places < length, places, 2 * length - 1 - places)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(
        1, mirrored, weights.expand(length, len(offsets))
    )


def _through(images: Tensor, into: tuple[Tensor, Tensor], values: Tensor, out_of: tuple[Tensor, Tensor]) -> Tensor:
    waves = into[0].to(images.dtype).T @ images @ into[1].to(images.dtype)
    return out_of[0].to(images.dtype) @ (values.to(images.dtype) * waves) @ out_of[1].to(images.dtype).T


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
    """Hidden pixels, bool [B, 1, H, W] or [1, 1, H, W] for all, are 0 in the observations [B, C, H, W]."""

    def __init__(self, hole: Tensor) -> None:
        self.hole = hole

    def apply(self, images: Tensor, /) -> Tensor:
        return images.masked_fill(self.hole, 0)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return observed.masked_fill(self.hole, 0)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """Hidden pixels are 0, which is grey."""
        return observed.masked_fill(self.hole, 0)


def holes(config: MaskConfig, shape: tuple[int, int, int], numbers: Tensor, *, seed: int) -> Tensor:
    """The hidden pixels of images by number, bool [B, 1, H, W], or [1, 1, H, W] if all have the same, on the CPU.

    Random boxes are a function of the seed and the number.

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
