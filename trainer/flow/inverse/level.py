"""Noise levels, by which a solver does the same on every path of noise and data."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.flow.path import Path

HALVINGS = 60
"""Of the interval that a time is searched in; it is then known to rounding."""


def check_path(path: Path) -> None:
    """Refuses a path that is no sum of noise and data.

    Args:
        path: of the flow.

    Raises:
        ValueError: it adds noise of its own to source and data, or is not affine.
    """
    if not path.affine or path.has_noise:
        raise ValueError(
            "path: inverse problems need states that are a sum of the source and the data alone; use a run whose "
            "path.kind is linear, trigonometric, variance_preserving or diffusion_steps"
        )


def noise_level(path: Path, times: Tensor) -> Tensor:
    """The share s = a / (a + b) of the noise in a x_0 + b x_1, which is 1 - t on the straight path.

    Args:
        path: without noise of its own.
        times: [T].

    Returns:
        [T] in 0..1.
    """
    c = path.coefficients(times)
    return c.a / (c.a + c.b)


def time_of(path: Path, levels: Tensor) -> Tensor:
    """The times at which a path has given noise levels.

    Args:
        path: without noise of its own; its noise level falls with time.
        levels: float64 [T].

    Returns:
        float64 [T] in 0..1; the nearest one where the path never has the level.
    """
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        later = noise_level(path, middle) > levels
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    return (low + high) / 2
