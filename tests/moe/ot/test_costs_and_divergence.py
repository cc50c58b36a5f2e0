"""Costs, barycentric projections and the losses made of transport."""

from itertools import product
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
    sinkhorn,
    sinkhorn_divergence,
    spread,
    squared_euclidean,
)
from tests.each import each

# POT has no types.
POT: Any = ot


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each("cost, metric", [(squared_euclidean, "sqeuclidean"), (euclidean, "euclidean"), (cosine, "cosine")])
def test_costs_between_points_are_pots(cost, metric: str) -> None:
    x, y = points(2, 6, 4), points(2, 5, 4, seed=1)
    for one in range(2):
        expected = POT.dist(x[one].numpy(), y[one].numpy(), metric=metric)
        assert np.allclose(cost(x, y)[one].numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(cost, (x.requires_grad_(), y.requires_grad_()))


@each("cost", [squared_euclidean, euclidean])
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


def test_the_spread_is_what_is_left_of_a_cost_beside_its_rows_and_columns() -> None:
    cost = points(3, 7, 5)
    rows, columns = (axis.ravel() for axis in np.indices((7, 5)))
    design = np.concatenate([np.eye(7)[rows], np.eye(5)[columns]], 1)
    for one in range(3):
        values = cost[one].flatten().numpy()
        fit, *_ = np.linalg.lstsq(design, values, rcond=None)
        assert float(spread(cost)[one]) == pytest.approx(float(np.sqrt(np.square(values - design @ fit).mean())))
    moved = 4 * cost + points(3, 7, 1, seed=1) + points(3, 1, 5, seed=2)
    assert torch.allclose(spread(moved), 4 * spread(cost))
    assert torch.allclose(spread(points(3, 7, 1) + points(3, 1, 5, seed=2)), torch.zeros(3).double(), atol=1e-12)
    a, b = (torch.full([length], 1 / length, dtype=torch.float64) for length in (7, 5))
    one, other = (sinkhorn(c, a, b, epsilon=e, tolerance=1e-9).values for c, e in ((cost, 0.3), (moved, 1.2)))
    assert torch.allclose(one, other, atol=1e-7)


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


def relative_entropy(x: np.ndarray, y: np.ndarray) -> float:
    return float((x * np.log(x / y) - x + y).sum())


def unbalanced_value(cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, weight: float) -> float:
    """Primal value of the plan that POT finds."""
    plan = POT.unbalanced.sinkhorn_unbalanced(
        a, b, cost, reg=epsilon, reg_m=weight, reg_type="kl", stopThr=1e-12, numItermax=20_000
    )
    prices = relative_entropy(plan.sum(1), a) + relative_entropy(plan.sum(0), b)
    return float((plan * cost).sum()) + epsilon * relative_entropy(plan, a[:, None] * b) + weight * prices


@each("total, epsilon", product([0.3, 1.0, 4.0], [0.2, 5.0]))
def test_the_unbalanced_divergence_is_that_of_pots_plans_and_never_negative(epsilon: float, total: float) -> None:
    x, y = points(6, 2), torch.cat([points(6, 2)[:3], points(4, 2, seed=1)])
    a, b = (torch.rand(n, generator=torch.Generator().manual_seed(n)).double() + 0.5 for n in (6, 7))
    a, b = a / a.sum(), total * b / b.sum()
    options: dict[str, Any] = {"epsilon": epsilon, "row_weight": 1.0, "column_weight": 1.0}
    options |= {"tolerance": 1e-10, "max_iterations": 5000}
    found = float(sinkhorn_divergence(x, y, a, b, **options))
    across, within_x, within_y = (
        unbalanced_value(POT.dist(left.numpy(), right.numpy()), p.numpy(), q.numpy(), epsilon, 1.0)
        for left, right, p, q in ((x, y, a, b), (x, x, a, a), (y, y, b, b))
    )
    without = across - (within_x + within_y) / 2
    assert found == pytest.approx(without + epsilon / 2 * (1 - total) ** 2, rel=1e-4, abs=1e-6)
    assert found >= 0
    if epsilon > 1 and total > 1:
        assert without < 0, "the term of the masses is what keeps it from being negative"
    at_home = sinkhorn_divergence(x, x, a, total * a, reference="uniform", **options)
    assert float(at_home) >= 0


def test_its_gradient_descends_onto_the_target() -> None:
    x, y = points(4, 2), points(5, 2, seed=1)

    def divergence(x: Tensor, y: Tensor) -> Tensor:
        return sinkhorn_divergence(x, y, epsilon=3.0, tolerance=1e-9, max_iterations=2000)

    assert torch.autograd.gradcheck(divergence, (x.requires_grad_(), y.requires_grad_()), atol=1e-5, fast_mode=True)


def test_the_monge_gap_of_a_gradient_of_a_convex_function_is_zero() -> None:
    x = points(40, 3)
    stretch = torch.diag(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    assert float(monge_gap(x, x @ stretch + 1)) == pytest.approx(0, abs=1e-12)
    expected = (2 * x).square().sum(-1).mean() - POT.emd2([], [], POT.dist(x.numpy(), -x.numpy()))
    assert float(monge_gap(x, -x)) == pytest.approx(float(expected), abs=1e-9)
    assert float(monge_gap(x, -x)) > 1
    assert torch.autograd.gradcheck(lambda mapped: monge_gap(x[:6], mapped), (-x[:6]).requires_grad_())
