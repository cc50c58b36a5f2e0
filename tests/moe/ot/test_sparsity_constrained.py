"""Sparsity-constrained transport: its limits, identities, POT, batches, gradients."""

import contextlib
import io
import itertools
from itertools import product
from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from moe.ot import exact, project_rows, quadratic, sparsity_constrained
from tests.each import each
from tests.moe.ot.routers import skewed_logits

# POT has no types.
POT: Any = ot

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning:ot")
ACCURATE: dict[str, Any] = {"tolerance": 1e-6, "max_evaluations": 400}


def points_problem(seed: int = 0, num_rows: int = 20, num_columns: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """A cost and masses that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(num_rows, num_columns, generator=generator, dtype=torch.float64)
    a, b = (torch.rand(length, generator=generator, dtype=torch.float64) + 0.5 for length in (num_rows, num_columns))
    return cost, a / a.sum(), b / b.sum()


def router_problem(num_tokens: int, num_experts: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    cost = -skewed_logits(num_tokens, num_experts, seed=seed)
    return cost, torch.ones(num_tokens, dtype=cost.dtype), cost.new_full([num_experts], num_tokens / num_experts)


def column_value(al: Tensor, cost: Tensor, a: Tensor, b: Tensor, k: int, gamma: float) -> float:
    """Semi-dual value at row potentials."""
    return float((al * a).sum() - project_rows(al - cost.mT, b, k=k, gamma=gamma).conjugate.sum())


def test_with_one_entry_a_column_the_value_is_that_of_exact_transport() -> None:
    cost, a, b = points_problem()
    best = POT.emd2(a.numpy(), b.numpy(), cost.numpy()) + 0.1 / 2 * float(b.square().sum())
    at_exact = column_value(exact(cost, a, b).potentials[0], cost, a, b, 1, 0.1)
    assert at_exact == pytest.approx(best, abs=1e-12)
    climbed = sparsity_constrained(cost, a, b, k=1, gamma=0.1, method="semi_dual", **ACCURATE)
    assert float(climbed.value) <= best + 1e-9
    assert float(climbed.value) >= best - 0.01 * abs(best)


def test_the_value_falls_with_k_down_to_the_quadratic_one() -> None:
    cost, a, b = points_problem()
    values = [
        float(sparsity_constrained(cost, a, b, k=k, gamma=0.5, method="semi_dual", **ACCURATE).value)
        for k in (1, 2, 4, 8, 20)
    ]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(float(quadratic(cost, a, b, gamma=0.5, tolerance=1e-7).value), abs=1e-7)
    assert values[0] > values[1] > values[2]


@each("axis, method", product(["rows", "columns"], ["semi_dual", "dual", "two_stage"]))
def test_without_a_binding_limit_every_method_is_quadratic_transport(axis: Any, method: Any) -> None:
    cost, a, b = points_problem(seed=2)
    plan = sparsity_constrained(cost, a, b, k=20, gamma=2.0, axis=axis, method=method, candidates=20, **ACCURATE)
    dense = plan.dense()
    assert plan.axis == axis
    assert torch.allclose(dense.sum(-1), a, atol=1e-6)
    assert torch.allclose(dense.sum(-2), b, atol=1e-6)
    primal = (dense * cost).sum() + dense.square().sum()
    assert float(plan.value) == pytest.approx(float(primal), abs=1e-6), "no duality gap"
    reference = POT.smooth.smooth_ot_dual(a.numpy(), b.numpy(), cost.numpy(), reg=2.0, reg_type="l2")
    assert np.allclose(dense.numpy(), reference, atol=1e-5)


@each("axis", ["rows", "columns"])
def test_values_reach_those_of_pot_in_its_units(axis: Any) -> None:
    cost, a, b = points_problem(seed=3, num_rows=40)
    k, gamma = 6, 0.3
    if axis == "rows":
        k, flipped = 3, (b.numpy(), a.numpy(), cost.mT.numpy())
    else:
        flipped = (a.numpy(), b.numpy(), cost.numpy())
    with contextlib.redirect_stdout(io.StringIO()):
        regulariser = POT.smooth.SparsityConstrained(max_nz=k, gamma=gamma)
        potentials, result = POT.smooth.solve_semi_dual(*flipped, regulariser, tol=1e-10)
        of_dual = POT.smooth.solve_dual(*flipped, regulariser, tol=1e-10)[-1]
    semi = sparsity_constrained(cost, a, b, k=k, gamma=gamma, axis=axis, method="semi_dual", **ACCURATE)
    both = sparsity_constrained(cost, a, b, k=k, gamma=gamma, axis=axis, method="dual", **ACCURATE)
    assert float(semi.value) == pytest.approx(-result.fun, rel=2e-4)
    assert float(semi.value) >= -result.fun - 1e-4 * abs(result.fun)
    assert float(both.value) >= -of_dual.fun - 1e-3 * abs(of_dual.fun)
    assert float(both.value) <= float(semi.value) + 1e-4
    side = semi.potentials[0 if axis == "columns" else 1]
    assert len(side) == len(potentials)


@each("max_evaluations, method", [(100, "two_stage"), (100, "dual"), (300, "semi_dual")])
def test_marginals_are_those_that_pot_asks_of_its_own_plans(method: Any, max_evaluations: int) -> None:
    """POT's test of its plans with two entries a column between equal clouds: sums within 1e-3 of their 1e-2.

    The best potentials lie on a kink, where the plan is worse than on the way to it.
    """
    x = np.random.RandomState(0).randn(100, 2)
    cost, uniform = torch.from_numpy(POT.dist(x, x)), torch.full([100], 0.01, dtype=torch.float64)
    plan = sparsity_constrained(
        cost, uniform, uniform, k=2, gamma=1.0, method=method, tolerance=1e-10, max_evaluations=max_evaluations
    )
    with contextlib.redirect_stdout(io.StringIO()):
        regulariser = POT.smooth.SparsityConstrained(max_nz=2, gamma=1.0)
        of_pot = POT.smooth.solve_dual(uniform.numpy(), uniform.numpy(), cost.numpy(), regulariser, tol=1e-10)[-1]
    dense = plan.dense()
    assert (plan.column_counts() <= 2).all()
    assert float((dense.sum(-1) - 0.01).abs().max()) <= 1e-3
    assert float((dense.sum(-2) - 0.01).abs().max()) <= 1e-3
    assert float(plan.value) == pytest.approx(-of_pot.fun, rel=1e-4)
    assert not plan.converged


@each("method", ["two_stage", "semi_dual"])
def test_token_units_are_pots_units_scaled(method: Any) -> None:
    cost, a, b = router_problem(64, 8)
    ours = sparsity_constrained(cost, a, b, k=10, gamma=0.3, method=method)
    scaled = sparsity_constrained(cost, a / 64, b / 64, k=10, gamma=0.3 * 64, method=method)
    assert torch.allclose(ours.dense() / 64, scaled.dense(), atol=1e-3 / 64)
    assert float(ours.value) / 64 == pytest.approx(float(scaled.value), rel=1e-4)


def test_tight_capacity_is_the_balanced_assignment() -> None:
    cost, a, b = router_problem(64, 8)
    rows, columns = linear_sum_assignment(np.repeat(cost.numpy(), 8, axis=1))
    best = cost.numpy()[rows, columns // 8].sum() + 0.1 / 2 * 64
    plan = sparsity_constrained(cost, a, b, k=8, gamma=0.1, capacity_iterations=200)
    assert float(plan.value) <= best + 1e-9
    assert float(plan.value) >= best - 0.005 * 64 * 0.1
    assert (plan.row_counts() > 0).float().mean() >= 0.95
    assert (plan.column_counts() <= 8).all()


@each("method", ["semi_dual", "dual", "two_stage"])
@each("axis, k", [("rows", 3), ("columns", 12)])
def test_a_batch_is_its_problems_one_by_one(axis: Any, k: int, method: Any) -> None:
    problems = [router_problem(80, 8, seed) for seed in range(3)]
    cost, a, b = (torch.stack(parts).view(3, 1, *parts[0].shape) for parts in zip(*problems, strict=True))
    together = sparsity_constrained(cost, a, b, k=k, gamma=0.3, axis=axis, method=method, max_evaluations=30)
    assert together.value.shape == together.converged.shape == (3, 1)
    for one, (cost, a, b) in enumerate(problems):
        alone = sparsity_constrained(cost, a, b, k=k, gamma=0.3, axis=axis, method=method, max_evaluations=30)
        assert torch.allclose(together.dense()[one, 0], alone.dense(), atol=1e-8)
        assert torch.allclose(together.value[one, 0], alone.value, rtol=1e-12)
        assert torch.allclose(together.potentials[0][one, 0], alone.potentials[0], atol=1e-8)


@each("method, axis", product(["semi_dual", "dual"], ["rows", "columns"]))
def test_a_warm_start_ends_at_once(axis: Any, method: Any) -> None:
    cost, a, b = router_problem(80, 8)
    cold = sparsity_constrained(cost, a, b, k=80, gamma=0.5, axis=axis, method=method, max_evaluations=1000)
    warm = sparsity_constrained(cost, a, b, k=80, gamma=0.5, axis=axis, method=method, warm_start=cold.potentials)
    assert cold.converged
    assert cold.evaluations > 3
    assert warm.evaluations == 1


@each("method", ["semi_dual", "dual", "two_stage"])
@each("axis, k", [("rows", 3), ("columns", 12)])
def test_the_gradient_of_the_value_is_the_plan(axis: Any, k: int, method: Any) -> None:
    cost, a, b = (part.requires_grad_() for part in router_problem(40, 5))
    plan = sparsity_constrained(cost, a, b, k=k, gamma=0.3, axis=axis, method=method)
    by_cost, by_a, by_b = torch.autograd.grad(plan.value, (cost, a, b))
    assert torch.allclose(by_cost, plan.dense(), atol=1e-12)
    assert torch.allclose(by_a, plan.potentials[0], atol=1e-12)
    assert torch.allclose(by_b, plan.potentials[1], atol=1e-12)


def test_the_optimal_value_has_that_gradient() -> None:
    cost, a, b = points_problem(num_rows=6, num_columns=4)

    def value(cost: Tensor, tilt: Tensor) -> Tensor:
        # Masses move along a direction that keeps their sum.
        moved = a + tilt * torch.linspace(-0.1, 0.1, 6, dtype=torch.float64)
        return sparsity_constrained(
            cost, moved, b, k=3, gamma=1.0, method="semi_dual", axis="rows", tolerance=1e-9, max_evaluations=5000
        ).value

    tilt = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (cost.requires_grad_(), tilt), atol=1e-4, fast_mode=True)


def test_more_candidates_smooth_a_small_k_and_are_cut_to_it() -> None:
    cost, a, b = router_problem(512, 16)
    rough = sparsity_constrained(cost, a, b, k=1, gamma=1.0, axis="rows")
    smooth = sparsity_constrained(cost, a, b, k=1, gamma=1.0, axis="rows", candidates=8)
    assert smooth.indices is not None
    assert smooth.indices.shape == (512, 1)
    assert torch.allclose(smooth.row_sums(), a)
    assert smooth.evaluations < rough.evaluations
    assert float(smooth.value) <= float(exact(cost, a, b).value) + 512 / 2 + 1e-9


def test_float32_gives_the_plan_of_float64() -> None:
    cost, a, b = router_problem(256, 8)
    double = sparsity_constrained(cost, a, b, k=40, gamma=0.3)
    single = sparsity_constrained(cost.float(), a.float(), b.float(), k=40, gamma=0.3)
    assert single.values.dtype == torch.float32
    assert torch.allclose(single.dense().double(), double.dense(), atol=1e-3)
    assert float(single.value) == pytest.approx(float(double.value), rel=1e-5)


def test_a_gamma_that_wants_more_spread_than_k_shows_in_the_marginal_error() -> None:
    cost, a, b = router_problem(256, 8)
    errors = [
        float(sparsity_constrained(cost, a, b, k=40, gamma=gamma, capacity_iterations=50).marginal_error)
        for gamma in (0.1, 1.0)
    ]
    assert errors[0] < 0.5 < errors[1]


@each(
    "change, message",
    [
        ({"k": 0}, "k: no entries"),
        ({"gamma": 0.0}, "gamma: not positive"),
        ({"axis": "row"}, "axis, method: unknown"),
        ({"method": "newton"}, "axis, method: unknown"),
        ({"b": torch.ones(7)}, "b: shape"),
        ({"b": torch.full([8], 9.0)}, "b: sums to 1.125 times"),
        ({"cost": torch.full([64, 8], torch.nan)}, "look for NaN"),
        ({"cost": torch.zeros(64, 8, dtype=torch.int64)}, "cost: no matrix of floats"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"cost": torch.rand(64, 8), "a": torch.ones(64), "b": torch.full([8], 8.0), "k": 8}
    given |= {"gamma": 0.1, "axis": "rows"} | change
    with pytest.raises(ValueError, match=message) as caught:
        sparsity_constrained(**given)
    assert "\n" not in str(caught.value)
