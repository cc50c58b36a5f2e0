"""Steps of random samplers as normal distributions, which tell how likely a next state is."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from trainer.flow.sampler.protocol import Field


class GaussianStep(Protocol):
    """A step whose next state is normally distributed, given the state before it."""

    def moments(self, field: Field, x: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the next state, the same for all of its values.

        Args:
            field: the field.
            x: [B, *D] states.
            t: scalar, their time.
            t_next: scalar, the time of the next states.

        Returns:
            [B, *D] means, differentiable in what the field is made of, and a scalar, or [B], standard deviation.
        """
        ...


def mean_log_density(y: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Logarithm of the density of states under normal distributions, divided by the number of their values.

    The mean over values, and not their sum, is what a clip of ratios is set for, whatever the size of a state.

    Args:
        y: [B, *D] states.
        mean: [B, *D].
        std: above 0; scalar or [B].

    Returns:
        [B], in the type of `y`.
    """
    wide = std.reshape(-1, *(1,) * (y.ndim - 1)) if std.ndim else std
    values = -((y - mean) / wide).square() / 2 - wide.log() - math.log(2 * math.pi) / 2
    return values.flatten(1).mean(1)
