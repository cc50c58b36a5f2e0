"""Costs, barycentric projections and the losses made of transport."""

from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from moe.ot import (
    cosine,
    euclidean,
    exact,
    monge_gap,
    negative_log_probabilities,
    negative_logits,
    sinkhorn_divergence,
    squared_euclidean,
)

# POT has no types.
POT: Any = ot


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("cost", "metric"), [(squared_euclidean, "sqeuclidean"), (euclidean, "euclidean"), (cosine, "cosine")]
)
def test_costs_between_points_are_pots(cost, metric: str) -> None:
    x, y = points(2, 6, 4), points(2, 5, 4, seed=1)
    for one in range(2):
        expected = POT.dist(x[one].numpy(), y[one].numpy(), metric=metric)
        assert np.allclose(cost(x, y)[one].numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(cost, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("cost", [squared_euclidean, euclidean])
def test_distances_survive_a_far_origin_in_float32(cost) -> None:
    x, y = points(40, 3).float(), points(40, 3, seed=1).float()
    assert torch.allclose(cost(x + 300, y + 300), cost(x, y), atol=1e-3)


def test_costs_of_logits() -> None:
    logits = 7 * points(3, 10, 4)
    assert torch.allclose(negative_log_probabilities(logits).neg().exp().sum(-1), torch.ones(3, 10).double())
    cost = negative_logits(logits)
    assert torch.allclose(cost.flatten(1).std(-1, correction=0), torch.ones(3).double())
    assert torch.equal(cost.argsort(-1), (-logits).argsort(-1))
    assert torch.equal(negative_logits(torch.zeros(4, 3)), torch.zeros(4, 3))


def test_the_barycentric_projection_of_a_permutation_is_the_permutation() -> None:
    y = points(6, 3)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    uniform = torch.full([6], 1 / 6, dtype=torch.float64)
    plan = exact(squared_euclidean(y[order], y), uniform, uniform)
    assert torch.allclose(plan.barycentric_projection(y), y[order])


def test_the_sinkhorn_divergence_is_zero_at_home_and_the_mean_shift_far_away() -> None:
    x = points(12, 2)
    options = {"epsilon": 0.5, "tolerance": 1e-8, "max_iterations": 5000}
    assert float(sinkhorn_divergence(x, x, **options)) == pytest.approx(0, abs=1e-12)
    move = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert float(sinkhorn_divergence(x, x + move, **options)) == pytest.approx(5.0, rel=1e-6)
    assert float(sinkhorn_divergence(x, points(10, 2, seed=1), **options)) > 0


def test_its_gradient_descends_onto_the_target() -> None:
    x, y = points(4, 2), points(5, 2, seed=1)

    def divergence(x: Tensor, y: Tensor) -> Tensor:
        return sinkhorn_divergence(x, y, epsilon=1.0, tolerance=1e-9, max_iterations=2000)

    assert torch.autograd.gradcheck(divergence, (x.requires_grad_(), y.requires_grad_()), atol=1e-5, fast_mode=True)


def test_the_monge_gap_of_a_gradient_of_a_convex_function_is_zero() -> None:
    x = points(40, 3)
    stretch = torch.diag(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    assert float(monge_gap(x, x @ stretch + 1)) == pytest.approx(0, abs=1e-12)
    expected = (2 * x).square().sum(-1).mean() - POT.emd2([], [], POT.dist(x.numpy(), -x.numpy()))
    assert float(monge_gap(x, -x)) == pytest.approx(float(expected), abs=1e-9)
    assert float(monge_gap(x, -x)) > 1
    assert torch.autograd.gradcheck(lambda mapped: monge_gap(x[:6], mapped), (-x[:6]).requires_grad_())
