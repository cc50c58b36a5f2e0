"""Quadratic transport: its optimality conditions, POT, gradients and limits."""

from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from moe.ot import exact, quadratic
from tests.each import each

# POT has no types.
POT: Any = ot

pytestmark = pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning:ot")


def problem(num_rows: int, num_columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(num_rows, num_columns, generator=generator, dtype=torch.float64)
    a, b = (torch.rand(length, generator=generator, dtype=torch.float64) + 0.2 for length in (num_rows, num_columns))
    return cost, a / a.sum(), b / b.sum()


@each("shape", [(12, 7), (7, 12)])
def test_it_meets_its_optimality_conditions_and_pot(shape: tuple[int, int]) -> None:
    cost, a, b = problem(*shape)
    plan = quadratic(cost, a, b, gamma=0.5, tolerance=1e-8)
    f, g = plan.potentials
    assert plan.converged
    assert plan.values.shape == shape
    assert torch.allclose(plan.values, (f[:, None] + g - cost).clamp_min(0) / 0.5, atol=1e-9)
    assert torch.allclose(plan.row_sums(), a, atol=1e-8)
    assert torch.allclose(plan.column_sums(), b, atol=1e-8)
    primal = (plan.values * cost).sum() + 0.25 * plan.values.square().sum()
    assert float(plan.value) == pytest.approx(float(primal), abs=1e-8)
    reference = POT.smooth.smooth_ot_semi_dual(a.numpy(), b.numpy(), cost.numpy(), reg=0.5, reg_type="l2")
    assert np.allclose(plan.values.numpy(), reference, atol=1e-4)
    warm = quadratic(cost, a, b, gamma=0.5, tolerance=1e-7, warm_start=plan.potentials)
    assert warm.evaluations == 1


def test_a_small_gamma_is_exact_transport_and_a_large_one_spreads_evenly() -> None:
    cost, a, b = problem(12, 7)
    sharp = quadratic(cost, a, b, gamma=1e-3)
    assert float((sharp.values * cost).sum()) == pytest.approx(float(exact(cost, a, b).value), abs=1e-3)
    # Without cost, the least square with these sums is the sum of a row and a column term.
    a, b = (a + 1 / 4) / 4, (b + 3 / 7) / 4
    flat = quadratic(cost, a, b, gamma=1e4, tolerance=1e-9).values
    even = a[:, None] / 7 + b / 12 - 1 / 84
    assert torch.allclose(flat, even, atol=1e-4)


def test_the_gradient_of_its_value() -> None:
    cost, a, b = problem(6, 4)

    def value(cost: Tensor) -> Tensor:
        return quadratic(cost, a, b, gamma=0.5, tolerance=1e-10, max_evaluations=5000).value

    assert torch.autograd.gradcheck(value, cost.requires_grad_(), atol=1e-6)
