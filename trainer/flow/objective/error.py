"""The error of a prediction, as a function of its difference from the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section

Error = Callable[[Tensor], Tensor]
"""From differences to errors of the same shape, 0 for a difference of 0."""


class SquaredConfig(Section):
    """The square of the difference; nothing to set."""

    kind: Literal["squared"] = "squared"


class PseudoHuberConfig(Section):
    """sqrt(difference^2 + scale^2) - scale: quadratic far below the scale, the absolute value far above it."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    scale: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Difference at which the error changes from quadratic to absolute."""


Config = Annotated[SquaredConfig | PseudoHuberConfig, Field(discriminator="kind")]


def build(config: Config) -> Error:
    """Returns the error that `config.kind` names.

    Source: the pseudo-Huber error is that of Charbonnier et al., "Deterministic Edge-Preserving Regularization in
    Computed Imaging", 1997; Wang et al., "Rectified Diffusion", arXiv 2410.07303, train with scale 1e-3.
    """
    match config:
        case SquaredConfig():
            return lambda difference: difference.square()
        case PseudoHuberConfig(scale=scale):
            return lambda difference: (difference.square() + scale**2).sqrt() - scale
