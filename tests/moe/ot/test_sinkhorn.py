"""Entropic transport against POT, its own primal, finite differences and its limits."""

from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe.ot import exact, sinkhorn
from tests.each import each

# POT has no types.
POT: Any = ot

CONVERGED: dict[str, Any] = {"tolerance": 1e-11, "max_iterations": 20000}


def problem(seed: int = 0, num_rows: int = 9, num_columns: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(num_rows, num_columns, generator=generator, dtype=torch.float64)
    a, b = (torch.rand(length, generator=generator, dtype=torch.float64) + 0.2 for length in (num_rows, num_columns))
    return cost, a / a.sum(), b / b.sum()


def kl(plan: Tensor, reference: Tensor) -> Tensor:
    return (torch.xlogy(plan, plan / reference) - plan + reference).sum()


class Looks(TorchDispatchMode):
    """Counts how often a number of a tensor is asked for."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@each("epsilon", [0.02, 0.5])
def test_the_balanced_plan_is_pots_and_the_value_is_its_primal(epsilon: float) -> None:
    cost, a, b = problem()
    plan = sinkhorn(cost, a, b, epsilon=epsilon, **CONVERGED)
    reference = POT.sinkhorn(
        a.numpy(), b.numpy(), cost.numpy(), epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=20000
    )
    assert plan.converged
    assert np.allclose(plan.values.numpy(), reference, atol=1e-9)
    primal = (plan.values * cost).sum() + epsilon * kl(plan.values, a[:, None] * b)
    assert float(plan.value) == pytest.approx(float(primal), abs=1e-9)
    assert float(plan.marginal_error) <= 1e-11


@pytest.mark.filterwarnings("ignore:If reg_type:UserWarning:ot")
@each("rows, columns", [(torch.inf, 0.3), (0.4, torch.inf), (0.4, 0.7)])
@each("reference, regulariser", [("product", "kl"), ("uniform", "entropy")])
def test_unbalanced_plans_are_pots(rows: float, columns: float, reference: Any, regulariser: str) -> None:
    cost, a, b = problem(seed=1)
    b = 1.7 * b
    plan = sinkhorn(cost, a, b, epsilon=0.1, row_weight=rows, column_weight=columns, reference=reference, **CONVERGED)
    expected = POT.unbalanced.sinkhorn_unbalanced(
        a.numpy(),
        b.numpy(),
        cost.numpy(),
        reg=0.1,
        reg_m=(rows, columns),
        reg_type=regulariser,
        stopThr=1e-14,
        numItermax=20000,
    )
    assert np.allclose(plan.values.numpy(), expected, atol=1e-9)
    base = a[:, None] * b if reference == "product" else torch.ones_like(cost)
    primal = (plan.values * cost).sum() + 0.1 * kl(plan.values, base)
    for weight, sums, mass in ((rows, plan.row_sums(), a), (columns, plan.column_sums(), b)):
        primal = primal + (0.0 if weight == torch.inf else weight * kl(sums, mass))
    assert float(plan.value) == pytest.approx(float(primal), abs=1e-9)


def test_every_column_has_its_own_weight() -> None:
    cost, a, b = problem(seed=2)
    b = b * torch.tensor([1.0, 1.0, 1.0, 1.2, 1.4, 1.6], dtype=torch.float64)
    weights = torch.tensor([torch.inf, 1e9, 0.2, 0.2, 1e-9, 3.0], dtype=torch.float64)
    plan = sinkhorn(cost, a, b, epsilon=0.1, column_weight=weights, **CONVERGED)
    sums = plan.column_sums()
    assert torch.allclose(plan.row_sums(), a, atol=1e-12)
    assert float(sums[0]) == pytest.approx(float(b[0]), abs=1e-10)
    assert float(sums[1]) == pytest.approx(float(b[1]), abs=1e-7)
    # First-order condition of the divergence: log(sum / mass) = -potential / weight.
    assert torch.allclose((sums[2:] / b[2:]).log() * weights[2:], -plan.potentials[1][2:], atol=1e-8)
    assert float(plan.potentials[1][4].abs()) < 1e-7, "a free column has no price"


def test_a_large_weight_is_exact_and_a_small_epsilon_is_exact_transport() -> None:
    cost, a, b = problem(seed=3)
    options: dict[str, Any] = {"epsilon": 0.1, "tolerance": 1e-9, "max_iterations": 20_000}
    balanced = sinkhorn(cost, a, b, **options)
    nearly = sinkhorn(cost, a, b, row_weight=1e9, column_weight=1e9, **options)
    assert torch.allclose(nearly.values, balanced.values, atol=1e-8)
    sharp = sinkhorn(cost, a, b, epsilon=4e-3, tolerance=1e-4, max_iterations=5000)
    assert float((sharp.values * cost).sum()) == pytest.approx(float(exact(cost, a, b).value), abs=2e-3)


@each("weight", [torch.inf, 0.5])
def test_the_value_has_its_gradient_by_the_envelope(weight: float) -> None:
    cost, a, b = problem(num_rows=4, num_columns=3)

    def value(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        # Softmax keeps the masses' sum, and so the exact problem feasible.
        return sinkhorn(cost, rows.softmax(-1), columns.softmax(-1), epsilon=0.2, row_weight=weight, **CONVERGED).value

    given = tuple(part.clone().requires_grad_() for part in (cost, a.log(), b.log()))
    assert torch.autograd.gradcheck(value, given, atol=1e-6, fast_mode=True)
    plan = sinkhorn(given[0], a, b, epsilon=0.2, row_weight=weight, **CONVERGED)
    assert torch.allclose(torch.autograd.grad(plan.value, given[0])[0], plan.values, atol=1e-9)
    assert not plan.values.requires_grad


@each("weight", [torch.inf, 0.5])
def test_the_plan_has_its_gradient_by_unrolling(weight: float) -> None:
    cost, a, b = problem(num_rows=4, num_columns=3)

    def plan(cost: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        solved = sinkhorn(
            cost,
            rows.softmax(-1),
            b,
            epsilon=0.3,
            column_weight=weight,
            gradient="unrolled",
            tolerance=0.0,
            max_iterations=60,
        )
        return solved.values, solved.value

    assert torch.autograd.gradcheck(plan, (cost.requires_grad_(), a.log().requires_grad_()), atol=1e-6, fast_mode=True)


def test_a_batch_is_its_problems_one_by_one() -> None:
    problems = [problem(seed) for seed in range(4)]
    cost, a, b = (torch.stack(parts).view(2, 2, *parts[0].shape) for parts in zip(*problems, strict=True))
    cost = cost * torch.tensor([1.0, 4.0], dtype=cost.dtype)[:, None, None, None]
    together = sinkhorn(cost, a, b, epsilon=0.1, tolerance=1e-4)
    iterations = []
    for one in range(4):
        alone = sinkhorn(cost.flatten(0, 1)[one], *problems[one][1:], epsilon=0.1, tolerance=1e-4)
        assert torch.allclose(together.values.flatten(0, 1)[one], alone.values, rtol=0, atol=1e-14)
        assert torch.allclose(together.value.flatten()[one], alone.value)
        iterations.append(alone.iterations)
    assert len(set(iterations)) > 1
    assert together.iterations == max(iterations)


def test_a_warm_start_saves_iterations() -> None:
    cost, a, b = problem(seed=5)
    cold = sinkhorn(cost, a, b, epsilon=0.05, tolerance=1e-6)
    again = sinkhorn(cost, a, b, epsilon=0.05, tolerance=1e-6, warm_start=cold.potentials)
    near = sinkhorn(cost + 1e-3 * cost.sin(), a, b, epsilon=0.05, tolerance=1e-6, warm_start=cold.potentials)
    assert again.iterations == 0
    assert 0 < near.iterations < cold.iterations


def test_without_a_tolerance_all_iterations_are_made_and_none_is_looked_at() -> None:
    cost, a, b = problem()
    exact_columns: dict[str, Any] = {"epsilon": 0.1, "max_iterations": 7}
    blind = sinkhorn(cost, a, b, tolerance=0, **exact_columns)
    watched = sinkhorn(cost, a, b, tolerance=1e-300, **exact_columns)
    assert torch.equal(blind.values, watched.values)
    assert blind.iterations == watched.iterations == 7
    for tolerance in (0, 1e-300):
        with Looks() as looks:
            sinkhorn(cost, a, b, tolerance=tolerance, **exact_columns)
        assert (looks.number > 0) == (tolerance > 0)


def test_float32_stays_finite_at_a_small_epsilon_and_without_mass() -> None:
    cost, a, b = (part.float() for part in problem(seed=6))
    a = torch.cat([a[:-1], a.new_zeros(1)])
    a = a / a.sum()
    cost[0, 1] = torch.inf
    plan = sinkhorn(100 * cost, a, b, epsilon=0.05, tolerance=1e-3, max_iterations=5000)
    assert torch.isfinite(plan.values).all()
    assert torch.isfinite(plan.value)
    assert float(plan.values[-1].sum()) < 1e-20
    assert float(plan.values[0, 1]) == 0
    assert torch.allclose(plan.row_sums()[:-1], a[:-1], atol=1e-5)


@each(
    "change, message",
    [
        ({"epsilon": 0.0}, "epsilon: not positive"),
        ({"column_weight": torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])}, "column_weight: not positive"),
        ({"gradient": "implicit"}, "gradient, reference: unknown"),
        ({"b": torch.full([6], 0.5)}, "b: sums to 3 times"),
    ],
)
def test_what_it_refuses(change: dict[str, Any], message: str) -> None:
    cost, a, b = problem()
    with pytest.raises(ValueError, match=message):
        sinkhorn(**({"cost": cost, "a": a, "b": b, "epsilon": 0.1} | change))
