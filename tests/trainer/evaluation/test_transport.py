import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

from tests.each import each
from tests.trainer.flow.test_sampler import gaussian, grid, states
from trainer.evaluation.transport import path_energy, straightness, transport_cost, wasserstein_2
from trainer.flow.sampler import Dopri5, Euler, Heun, Trajectory


def standard(size: int) -> torch.Tensor:
    """Points of exact mean 0 and variance 1, so that moments have no error of sampling."""
    x = torch.randn(size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (x - x.mean()) / x.std(correction=0)


@each("solver", [Heun(), Dopri5(rtol=1e-8, atol=1e-8)], ids=["heun", "dopri5"])
@each(("mean", "std"), [(0.0, 1.0), (0.0, 0.5), (2.0, 0.5), (-1.0, 3.0)])
def test_straight_pairs_of_gaussians_bend_by_the_closed_form(solver, mean, std):
    """x_t has deviation sigma = ((1 - t)^2 + t^2 s^2)^1/2, and E |v|^2 = mean^2 + sigma'^2."""
    trajectory = solver.sample(gaussian(mean, std), standard(500), grid(400))
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    energy = float(torch.trapezoid((t * std**2 - (1 - t)).square() / ((1 - t) ** 2 + t**2 * std**2), t))
    assert path_energy(trajectory) == pytest.approx(mean**2 + energy, rel=1e-4)
    cost = mean**2 + (std - 1) ** 2
    assert transport_cost(trajectory) == pytest.approx(cost, abs=1e-4)
    if cost:
        assert straightness(trajectory) == pytest.approx((energy - (std - 1) ** 2) / cost, rel=1e-3)
    else:
        assert path_energy(trajectory) == pytest.approx(2 - math.pi / 2, abs=1e-4)


def test_straight_paths_are_straight():
    """A field that does not change along its paths, v(x, t) = (s - 1) x / (1 - t + t s)."""

    def rectified(x, t):
        return -0.5 * x / (1 - 0.5 * t[:, None])

    trajectory = Heun().sample(rectified, standard(100), grid(100))
    assert straightness(trajectory) < 1e-6
    assert path_energy(trajectory) == pytest.approx(transport_cost(trajectory)) == pytest.approx(0.25, abs=1e-5)
    one = Euler().sample(rectified, standard(100), grid(1)).final
    assert_allclose(one, trajectory.final, atol=1e-5)


def test_the_figures_do_not_mind_the_grid_nor_the_way():
    uneven = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    there = Trajectory((1 + uneven)[:, None, None] * states(), uneven, {"network": 3})
    assert straightness(there) == pytest.approx(0, abs=1e-12)
    back = Trajectory(there.x.flip(0), uneven.flip(0), {"network": 3})
    assert path_energy(back) == pytest.approx(path_energy(there)) == pytest.approx(transport_cost(there))


def test_a_shift_is_as_far_as_it_is_long():
    x = np.random.default_rng(0).normal(size=(200, 3))
    assert wasserstein_2(x, x) == pytest.approx(0, abs=1e-6)
    assert wasserstein_2(x, x + np.array([3.0, 0.0, 4.0])) == pytest.approx(5)


def test_it_is_the_cheapest_assignment():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 2, 2)), rng.exponential(size=(60, 2, 2))
    squared = np.square(x.reshape(60, 1, 4) - y.reshape(1, 60, 4)).sum(-1)
    best = squared[linear_sum_assignment(squared)].mean()
    assert wasserstein_2(x, y) == pytest.approx(best**0.5)


def test_in_one_dimension_sets_of_unlike_size_go_by_quantiles():
    x, y = np.array([[0.0], [2.0]]), np.array([[0.0], [1.0], [2.0], [3.0]])
    assert wasserstein_2(x, y) == pytest.approx(math.sqrt((0 + 1 + 0 + 1) / 4))


def test_wrong_sets_are_refused():
    with pytest.raises(ValueError, match=r"^y: .*features"):
        wasserstein_2(np.zeros((3, 2)), np.zeros((3, 3)))
