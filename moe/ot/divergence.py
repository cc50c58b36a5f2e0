"""Losses made of transport: between two samples, and between a map and the best one.

Shape suffixes: N and M points, D width.
"""

from collections.abc import Callable
from typing import Any

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
