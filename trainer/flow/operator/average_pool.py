"""A smaller image, each pixel the mean of a block."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from netsim.foundation.settings import Section
from trainer.flow.operator.protocol import Operator


class AveragePoolConfig(Section):
    """The mean of each block of pixels is observed: the image at a lower resolution."""

    kind: Literal["average_pool"] = "average_pool"
    factor: int = Field(default=2, ge=2)
    """Side of a block in pixels; it divides the sides of the image."""


class AveragePool(Operator):
    """From images [B, C, H, W] to the means of their blocks, [B, C, H / factor, W / factor].

    Args:
        factor: side of a block in pixels.
        shape: (C, H, W) of an image.

    Raises:
        ValueError: the factor does not divide a side.
    """

    def __init__(self, factor: int, shape: tuple[int, int, int]) -> None:
        _, height, width = shape
        if height % factor or width % factor:
            fitting = [str(side) for side in range(2, min(height, width) + 1) if not (height % side or width % side)]
            remedy = f"use one of {', '.join(fitting)}" if fitting else "there is no such factor for these images"
            raise ValueError(f"factor: {factor} does not divide the {height} x {width} pixels of an image; {remedy}")
        self._factor = factor

    def apply(self, images: Tensor, /) -> Tensor:
        """See `Operator.apply`."""
        return functional.avg_pool2d(images, self._factor)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """See `Operator.adjoint`."""
        return self.pseudo_inverse(observed) / self._factor**2

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """See `Operator.pseudo_inverse`; every pixel of a block has its mean."""
        return functional.interpolate(observed, scale_factor=self._factor, mode="nearest")
