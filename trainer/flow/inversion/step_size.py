"""The largest step by which the updates of zero-order inversion come nearer to one another, measured along a run."""

from __future__ import annotations

import torch
from torch import Tensor

SAFETY = 0.4
"""Share of the smallest measured bound that a step takes. The pairs of a run see few directions, and the steepest one
may be missing among them."""

RESOLUTION = 1e-4
"""Least |df| / |f| of a pair that tells a bound: nearer ones differ by the rounding of a long drawing."""


def contraction_bound(noise_change: Tensor, drawn_change: Tensor, drawn: Tensor) -> Tensor:
    """The step size below which two noises come nearer to one another, 2 <df, dz> / |df|^2.

    The update z <- z - eta (f(z) - y) moves a pair to dz - eta df, and |dz - eta df| < |dz| holds exactly for
    0 < eta < 2 <df, dz> / |df|^2. For a linear f with symmetric positive matrix, no pair has a smaller bound than
    2 / (largest eigenvalue), which is the bound of gradient descent.

    Source: Ronai, Kulikov and Michaeli, "FlowOpt", arXiv 2510.22010, whose condition on the step size asks the same of
    all pairs at once.

    Args:
        noise_change: [B, *D] dz between two noises of each example.
        drawn_change: [B, *D] df between what they lead to.
        drawn: [B, *D] what one of them leads to.

    Returns:
        [B] in float64; infinite where the pair tells nothing: where df is within rounding, and where no size brings the
        pair nearer, <df, dz> <= 0.
    """
    dz, df = noise_change.double().flatten(1), drawn_change.double().flatten(1)
    along, square = (df * dz).sum(1), df.square().sum(1)
    tells = (along > 0) & (square > RESOLUTION**2 * drawn.double().flatten(1).square().sum(1))
    return torch.where(tells, 2 * along / torch.where(tells, square, 1.0), torch.inf)
