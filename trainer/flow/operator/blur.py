"""Images out of focus."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.operator.protocol import Operator

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

    Args:
        deviation: standard deviation of the Gaussian in pixels.
        least_singular_value: of those that are kept; the largest one is 1.
        shape: (C, H, W) of an image.
        device: of the images.
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
        """See `Operator.apply`."""
        return _through(images, self._right, self._values, self._left)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """See `Operator.adjoint`."""
        return _through(observed, self._left, self._values, self._right)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """See `Operator.pseudo_inverse`."""
        return _through(observed, self._left, self._inverse, self._right)


def gaussian(length: int, deviation: float) -> Tensor:
    """The matrix of a Gaussian along one axis.

    Args:
        length: of the axis in pixels.
        deviation: standard deviation in pixels.

    Returns:
        float64 [length, length]; every row sums to 1.
    """
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
