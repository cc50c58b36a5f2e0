"""Inversion by corrections of the noise, and the step size at which they converge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SAFETY = 0.4
"""Share of the smallest measured bound that a step takes. The pairs of a run see few directions, and the steepest one
may be missing among them."""

RESOLUTION = 1e-4
"""Least |df| / |f| of a pair that tells a bound: nearer ones differ by the rounding of a long drawing."""


def contraction_bound(noise_change: Tensor, drawn_change: Tensor, drawn: Tensor) -> Tensor:
    """The step size below which two noises of each example come nearer to one another, 2 <df, dz> / |df|^2.

    dz and df are the changes [B, *D] of the noise and of the states that it leads to. The update moves a pair to
    dz - eta df, and |dz - eta df| < |dz| holds exactly for 0 < eta < 2 <df, dz> / |df|^2. For a linear f with symmetric
    positive matrix, no pair has a smaller bound than 2 / (largest eigenvalue), the bound of gradient descent. [B] in
    float64; infinite where df is within rounding of the states, or where no size brings the pair nearer, <df, dz> <= 0.

    Source: Ronai, Kulikov and Michaeli, "FlowOpt", arXiv 2510.22010, whose condition on the step size is that of all
    pairs at once.
    """
    dz, df = noise_change.double().flatten(1), drawn_change.double().flatten(1)
    along, square = (df * dz).sum(1), df.square().sum(1)
    tells = (along > 0) & (square > RESOLUTION**2 * drawn.double().flatten(1).square().sum(1))
    return torch.where(tells, 2 * along / torch.where(tells, square, 1.0), torch.inf)


FIRST_BOUND = 1.0
"""The bound that a run begins with: that of a map which is nowhere steeper than 2, as flows to unit variance are."""

Drawn = Callable[[Tensor], Tensor]
"""From noise [B, *D] to the states [B, *D] that a flow leads it to."""
Watch = Callable[[int, Tensor, Tensor], None]
"""Is shown each iterate: its number from 0, the noise [B, *D], and what it leads to [B, *D]."""


@dataclass(frozen=True)
class Iterated:
    """The result of zero-order inversion.

    Attributes:
        noise: [B, *D] of each example, the iterate that leads nearest to the target.
        drawn: [B, *D] the states that it leads to.
        errors: [I + 1, B] float32 mean squared distance of each iterate from the target, that of the first noise first.
        bound: [B] float32 smallest `contraction_bound` of pairs of successive iterates; infinite where none has one. A
            `step_size` near it or above it is too large.
    """

    noise: Tensor
    drawn: Tensor
    errors: Tensor
    bound: Tensor


@torch.no_grad()
def zero_order(
    drawn: Drawn,
    target: Tensor,
    initial: Tensor,
    iterations: int,
    step_size: float | None = None,
    watch: Watch | None = None,
) -> Iterated:
    """Corrects noise until the states that it leads to are near a target: z <- z - eta (f(z) - y).

    It is gradient descent on |f(z) - y|^2 / 2 with the identity in place of the Jacobian of f, which may be any sampler
    with any guidance, controls and decoder of the same shape, in any number format.

    Inversion: f draws under the condition of the target, and the more iterations, the nearer.

    Editing: f draws under *another* condition, the first noise is the inversion of the picture, and the run is stopped
    early. The first iterate is the plain edit, far from the picture; with each further one the distance to the picture
    falls, and in the end the edit itself is undone. So the number of iterations is the strength with which the picture
    is kept. It needs a small `step_size`, 0.05 for some 8 iterations: with larger or automatic steps, two iterations
    undo most edits (`tests/benchmarks/methods/flowopt_editing.py`). `watch` may keep every iterate for a later choice.

    An example's result is a function of its own row, if that is so of f. Nothing is read back to the host.

    Source: Ronai, Kulikov and Michaeli, "FlowOpt: Fast Optimization Through Whole Flow Processes for Training-Free
    Editing", arXiv 2510.22010.

    Args:
        drawn: f; it is called `iterations` + 1 times, without gradients.
        target: [B, *D] y.
        initial: [B, *D] the first noise.
        iterations: corrections, 0 or more.
        step_size: eta of all examples; None: eta of an example is 0.4 of the smallest bound that the pairs of
            successive iterates have shown so far, and 0.4 before the first pair, which suits a flow between states of
            unit variance.
        watch: is shown every iterate.
    """
    z, y = _at_least_single(initial), _at_least_single(target)
    image = drawn(z).to(z.dtype)
    error = _mean_square(image - y)
    best, best_image, least, errors = z, image, error, [error]
    bound = torch.full_like(error, torch.inf)
    if watch is not None:
        watch(0, z, image)
    for number in range(1, iterations + 1):
        eta = _per_value(_own_step(bound) if step_size is None else torch.full_like(bound, step_size), z)
        z_next = z - eta * (image - y)
        image_next = drawn(z_next).to(z.dtype)
        bound = torch.minimum(bound, contraction_bound(z_next - z, image_next - image, image))
        z, image = z_next, image_next
        error = _mean_square(image - y)
        errors.append(error)
        nearer = (error < least) | least.isnan()
        least = torch.where(nearer, error, least)
        best, best_image = (
            torch.where(_per_value(nearer, z), new, old) for new, old in ((z, best), (image, best_image))
        )
        if watch is not None:
            watch(number, z, image)
    return Iterated(best, best_image, torch.stack(errors).float(), bound.float())


def _own_step(bound: Tensor) -> Tensor:
    return SAFETY * torch.where(bound.isinf(), FIRST_BOUND, bound)


def _at_least_single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _mean_square(difference: Tensor) -> Tensor:
    return difference.double().square().flatten(1).mean(1)


def _per_value(row: Tensor, x: Tensor) -> Tensor:
    """A value of each example [B], in the type of states [B, *D] if it is a number, so that it broadcasts to them."""
    row = row if row.dtype == torch.bool else row.to(x.dtype)
    return row.reshape(-1, *[1] * (x.ndim - 1))
