"""An operator of your own: of each picture, only some rows of pixels are observed, as by a scanner that skips lines.

An operator is linear. It has an adjoint, for which <A x, y> = <x, A' y>, and a pseudo-inverse, for which A A+ A = A and
A+ A is symmetric; both are tried on random pictures before anything is restored.
"""

from pydantic import BaseModel, Field
from torch import Tensor

from trainer.flow.operator import Operator


class Lines(Operator):
    """Every second or third row of pixels, from pictures [B, C, H, W] to [B, C, rows, W]."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the request."""

        every: int = Field(default=2, ge=2)
        """One row in so many is observed."""

    def __init__(self, config: Config, shape: tuple[int, int, int]) -> None:
        """An operator that asks for `numbers` or `device` here gets those of the pictures of a batch."""
        self.every, self.height = config.every, shape[1]

    def apply(self, images: Tensor, /) -> Tensor:
        """The rows that are observed."""
        return images[:, :, :: self.every]

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """The rows in their places, and 0 elsewhere."""
        images = observed.new_zeros(*observed.shape[:2], self.height, observed.shape[3])
        images[:, :, :: self.every] = observed
        return images

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """The same: of the pictures that agree, it is the one nearest to grey."""
        return self.adjoint(observed)
