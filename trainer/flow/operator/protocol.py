"""Linear operators: what an observation shows of an image."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Operator(Protocol):
    """A linear map A from images [B, C, H, W] to observations [B, *S], the same for every row or one for each."""

    def apply(self, images: Tensor, /) -> Tensor:
        """The observations A x of images; differentiable."""
        ...

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """The images A' y, for which <A x, y> = <x, A' y>."""
        ...

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """The images A+ y, with A A+ A = A: the smallest of those that come nearest to the observations."""
        ...
