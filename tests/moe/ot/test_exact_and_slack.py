"""Exact and partial transport, capacities and drops, against POT and linear programmes."""

from typing import Any

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from moe.ot import (
    capacity_problem,
    dropping_problem,
    exact,
    partial,
    partial_problem,
    quadratic,
    sinkhorn,
    without_slack,
)
from tests.each import each

# POT has no types.
POT: Any = ot


def problem(seed: int = 0, num_rows: int = 7, num_columns: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(num_rows, num_columns, generator=generator, dtype=torch.float64) - 0.3
    a, b = (torch.rand(length, generator=generator, dtype=torch.float64) + 0.2 for length in (num_rows, num_columns))
    return cost, a / a.sum(), b / b.sum()


def programme(cost: Tensor, a: Tensor, b: Tensor, *, rows_exact: bool) -> float:
    """Least cost with column sums of at most b, and row sums of a or of at most a."""
    num_rows, num_columns = cost.shape
    rows = np.kron(np.eye(num_rows), np.ones(num_columns))
    columns = np.kron(np.ones(num_rows), np.eye(num_columns))
    if rows_exact:
        result = linprog(cost.flatten().numpy(), A_ub=columns, b_ub=b.numpy(), A_eq=rows, b_eq=a.numpy())
    else:
        limits = np.concatenate([b.numpy(), a.numpy()])
        result = linprog(cost.flatten().numpy(), A_ub=np.vstack([columns, rows]), b_ub=limits)
    return float(result.fun)


def test_exact_transport_is_pots_with_a_dual_that_proves_it() -> None:
    cost, a, b = problem()
    plan = exact(cost, a, b)
    assert float(plan.value) == pytest.approx(POT.emd2(a.numpy(), b.numpy(), cost.numpy()), abs=1e-12)
    f, g = plan.potentials
    assert (f[:, None] + g <= cost + 1e-12).all()
    assert float((f * a).sum() + (g * b).sum()) == pytest.approx(float(plan.value), abs=1e-12)
    assert plan.converged
    assert float(plan.marginal_error) < 1e-12


def test_exact_transport_is_batched_and_keeps_the_type() -> None:
    problems = [problem(seed) for seed in range(3)]
    cost, a, b = (torch.stack(parts).float() for parts in zip(*problems, strict=True))
    plan = exact(cost, a, b)
    assert plan.values.dtype == torch.float32
    for one, alone in enumerate(problems):
        assert torch.allclose(plan.values[one].double(), exact(*alone).values, atol=1e-6)


def test_the_gradient_of_the_exact_value_is_the_plan_and_the_potentials() -> None:
    cost, a, b = problem()
    tilt = torch.linspace(-0.01, 0.01, 7, dtype=torch.float64)

    def value(cost: Tensor, amount: Tensor) -> Tensor:
        return exact(cost, a + amount * tilt, b).value

    amount = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (cost.requires_grad_(), amount))


def test_forbidden_pairs_stay_empty_or_are_refused() -> None:
    cost, a, b = problem()
    cost[0, :4] = torch.inf
    a = torch.full([7], 1 / 7, dtype=torch.float64)
    b = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3], dtype=torch.float64)
    plan = exact(cost, a, b)
    assert float(plan.values[0, :4].sum()) == 0
    assert torch.isfinite(plan.value)
    b = torch.tensor([0.3, 0.2, 0.2, 0.2, 0.1], dtype=torch.float64)
    with pytest.raises(ValueError, match="cost: no plan avoids"):
        exact(cost, a, b)
    with pytest.raises(ValueError, match="b: sums to 2 times"):
        exact(cost, a, 2 * b)


@each("mass", [0.2, 0.7, 1.0])
def test_partial_transport_is_pots(mass: float) -> None:
    cost, a, b = problem(seed=1)
    cost, b = cost + 0.3, 1.5 * b
    plan = partial(cost, a, b, mass=mass)
    reference = POT.partial.partial_wasserstein(a.numpy(), b.numpy(), cost.numpy(), m=mass)
    assert plan.values.shape == cost.shape
    assert float(plan.value) == pytest.approx(float((reference * cost.numpy()).sum()), abs=1e-9)
    assert float(plan.values.sum()) == pytest.approx(mass)
    assert (plan.row_sums() <= a + 1e-12).all()
    assert (plan.column_sums() <= b + 1e-12).all()
    assert plan.potentials[0].shape == a.shape


def test_partial_transport_moves_its_mass_even_where_more_would_pay() -> None:
    cost, a, b = problem(seed=2)
    cost = cost - 1
    assert float(partial(cost, a, b, mass=0.25).values.sum()) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="mass: more than"):
        partial(cost, a, b, mass=1.1)
    assert float(partial(cost, a, b, mass=0).values.sum()) == pytest.approx(0, abs=1e-12)
    for mass in (-1, torch.nan):
        with pytest.raises(ValueError, match="mass: not at least 0"):
            partial(cost, a, b, mass=mass)


def test_entropic_partial_transport_nears_the_exact_one() -> None:
    cost, a, b = problem(seed=3)
    plan = sinkhorn(*partial_problem(cost, a, b, mass=0.4), epsilon=2e-3, tolerance=1e-6, max_iterations=50000)
    plan = without_slack(plan, cost.shape)
    assert float(plan.values.sum()) == pytest.approx(0.4, abs=1e-5)
    assert float((plan.values * cost).sum()) == pytest.approx(float(partial(cost, a, b, mass=0.4).value), abs=3e-3)


def test_capacities_are_upper_bounds() -> None:
    cost, a, b = problem(seed=4)
    capacity = 1.6 * b
    best = programme(cost, a, capacity, rows_exact=True)
    plan = without_slack(exact(*capacity_problem(cost, a, capacity)), cost.shape)
    assert float(plan.value) == pytest.approx(best, abs=1e-9)
    smooth = quadratic(*capacity_problem(cost, a, capacity), gamma=1e-3, tolerance=1e-6)
    smooth = without_slack(smooth, cost.shape)
    for found in (plan, smooth):
        assert torch.allclose(found.row_sums(), a, atol=1e-6)
        assert (found.column_sums() <= capacity + 1e-6).all()
    assert float((smooth.values * cost).sum()) == pytest.approx(best, abs=1e-3)
    with pytest.raises(ValueError, match="capacity: less than"):
        capacity_problem(cost, a, 0.9 * b)


@each("price", [-0.1, 0.1, 0.5, 5.0])
def test_rows_are_dropped_where_the_price_is_lower(price: float) -> None:
    cost, a, b = problem(seed=5)
    capacity = 0.8 * b
    plan = exact(*dropping_problem(cost, a, capacity, price=price))
    # Serving a unit instead of dropping it costs (cost - price); dropping all costs price * sum(a).
    best = programme(cost - price, a, capacity, rows_exact=False) + price
    assert float(plan.value) == pytest.approx(best, abs=1e-9)
    served = without_slack(plan, cost.shape)
    assert (served.column_sums() <= capacity + 1e-12).all()
    if price == 5.0:
        assert float(served.values.sum()) == pytest.approx(0.8)


def test_a_sparse_plan_loses_its_dummies_too() -> None:
    from moe.ot import expert_potentials

    cost, a, b = problem(seed=6, num_rows=30)
    padded = dropping_problem(30 * cost, 30 * a, 20 * b, price=1.0)
    plan = expert_potentials(*padded, k=3, gamma=0.1, max_evaluations=300)
    served = without_slack(plan, cost.shape)
    assert torch.allclose(served.dense(), plan.dense()[:30, :5])
    assert served.indices is not None
    assert int(served.indices.max()) < 5
    assert served.shape == (30, 5)
