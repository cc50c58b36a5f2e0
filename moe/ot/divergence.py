"""Distances and losses made of transport: between samples, along random lines, and between a map and the best one.

Shape suffixes: N and M points, D width, S directions.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from moe.ot.costs import squared_euclidean
from moe.ot.exact import exact
from moe.ot.sinkhorn import sinkhorn

Cost = Callable[[Tensor, Tensor], Tensor]


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    epsilon: float,
    cost: Cost = squared_euclidean,
    **options: Any,
) -> Tensor:
    """Entropic transport between two samples, less the mean of that within each: at least 0, 0 where they agree.

    Masses of unequal sums, which only unbalanced transport takes, add epsilon/2 times their squared difference; without
    it the divergence of such samples would become negative.

    Args:
        x: points, [..., N, D].
        y: points, [..., M, D].
        a: masses of x, [..., N]; uniform, summing to 1, if None.
        b: masses of y, [..., M]; uniform, summing to 1, if None.
        epsilon: strength of the entropy, in units of cost.
        cost: costs [..., N, M] between points.
        **options: of `sinkhorn`.

    Returns:
        [...], differentiable in points and masses.

    Source: Séjourné et al., "Sinkhorn divergences for unbalanced optimal transport", 2019, definition 8; for equal
    masses Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", 2019, equation 3.
    """
    a = x.new_full(x.shape[:-1], 1 / x.shape[-2]) if a is None else a
    b = y.new_full(y.shape[:-1], 1 / y.shape[-2]) if b is None else b
    across, within_x, within_y = (
        sinkhorn(cost(left, right), left_mass, right_mass, epsilon=epsilon, **options).value
        for left, right, left_mass, right_mass in ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    )
    # The entropy is relative to the product of what the reference has in each sample.
    uniform = options.get("reference") == "uniform"
    reference_x, reference_y = (torch.ones_like(mass) if uniform else mass for mass in (a, b))
    excess = reference_x.sum(-1) - reference_y.sum(-1)
    return across - (within_x + within_y) / 2 + epsilon / 2 * excess.square()


def monge_gap(x: Tensor, mapped: Tensor, *, cost: Cost = squared_euclidean) -> Tensor:
    """How much more a map moves its points than is needed to cover the same images: at least 0, 0 for the best map.

    Args:
        x: points, [..., N, D].
        mapped: their images, [..., N, D].
        cost: costs [..., N, N] between points.

    Returns:
        [...], differentiable in both.

    Source: Uscidda, Cuturi, "The Monge gap", 2023, definition 1.
    """
    pairs = cost(x, mapped)
    uniform = pairs.new_full(pairs.shape[:-1], 1 / pairs.shape[-1])
    return pairs.diagonal(dim1=-2, dim2=-1).mean(-1) - exact(pairs, uniform, uniform).value


Weighting = Literal["mean", "max", "energy"]


def wasserstein_1d(x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2) -> Tensor:
    """The p-th power of the Wasserstein distance on a line.

    Args:
        x: positions, [..., N].
        y: positions, [..., M].
        a: masses of x, [..., N]; uniform if None. Both sides are scaled to a sum of 1.
        b: masses of y, [..., M]; uniform if None.
        p: order, at least 1.

    Returns:
        sum |x - y|^p over the monotone plan, [...], differentiable in x and y.

    Raises:
        ValueError: p is less than 1.

    Source: Peyre, Cuturi, "Computational optimal transport", 2019, remark 2.30.
    """
    if p < 1:
        raise ValueError(f"p: less than 1 ({p}); give 1, 2 or more")
    if a is None and b is None and x.shape[-1] == y.shape[-1]:
        return (x.sort(-1).values - y.sort(-1).values).abs().pow(p).mean(-1)
    x, x_reached = _quantiles(x, a)
    y, y_reached = _quantiles(y, b)
    x_reached, y_reached = (
        reached.expand(torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]) + reached.shape[-1:])
        for reached in (x_reached, y_reached)
    )
    ends = torch.cat([x_reached, y_reached], dim=-1).sort(-1).values
    mass = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    # The middle of a piece belongs to one point of each side, its ends may belong to two.
    middle = ends - mass / 2
    gaps = _at(x, x_reached, middle) - _at(y, y_reached, middle)
    return (mass * gaps.abs().pow(p)).sum(-1)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    a: Tensor | None = None,
    b: Tensor | None = None,
    *,
    num_slices: int,
    generator: torch.Generator | None,
    p: float = 2,
    weighting: Weighting = "mean",
) -> Tensor:
    """The p-th power of the sliced Wasserstein distance: points projected onto random directions.

    Args:
        x: points, [..., N, D].
        y: points, [..., M, D].
        a: masses of x, [..., N]; uniform if None.
        b: masses of y, [..., M]; uniform if None.
        num_slices: directions S.
        generator: draws the directions, on the device of x.
        p: order, at least 1.
        weighting: of the directions: their mean, the largest ("max"), or by the softmax of their own values
            ("energy"), which looks where the two differ.

    Returns:
        [...], differentiable in x and y.

    Raises:
        ValueError: arguments out of range.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015, definition 4; energy: Nguyen,
    Ho, "Energy-based sliced Wasserstein distance", 2023, definition 1.
    """
    if num_slices < 1:
        raise ValueError(f"num_slices: no direction ({num_slices}); give about 100")
    if weighting not in ("mean", "max", "energy"):
        raise ValueError(f"weighting: unknown ({weighting}); give mean, max or energy")
    directions = torch.randn(num_slices, x.shape[-1], generator=generator, dtype=x.dtype, device=x.device)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    of_slices = wasserstein_1d(
        directions @ x.mT,
        directions @ y.mT,
        None if a is None else a[..., None, :],
        None if b is None else b[..., None, :],
        p=p,
    )
    if weighting == "max":
        return of_slices.amax(-1)
    if weighting == "energy":
        return (of_slices.softmax(-1) * of_slices).sum(-1)
    return of_slices.mean(-1)


def _quantiles(positions: Tensor, mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted positions and the share of the mass up to each."""
    ordered, order = positions.sort(-1)
    mass = torch.ones_like(positions) if mass is None else mass.to(positions.dtype).expand_as(positions)
    reached = mass.gather(-1, order).cumsum(-1)
    return ordered, reached / reached[..., -1:]


def _at(ordered: Tensor, reached: Tensor, level: Tensor) -> Tensor:
    index = torch.searchsorted(reached.contiguous(), level).clamp_max(reached.shape[-1] - 1)
    return ordered.expand(level.shape[:-1] + ordered.shape[-1:]).gather(-1, index)
