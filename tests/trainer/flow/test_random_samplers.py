import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from moe.seeds import fold_in, normal
from tests.each import each
from tests.trainer.flow.test_sampler import KEYS, gaussian, grid, growth, known, states
from trainer.flow import sampler
from trainer.flow.target import Quantity

MEAN, STD = 2.0, 0.5
BOTH = [sampler.EulerMaruyama, sampler.StochasticHeun]
solvers = pytest.mark.parametrize("solver", BOTH)


@dataclass(frozen=True)
class Interpolant(sampler.Field):
    """Exact velocity and score of x_t = (1 - t) x_0 + t x_1 + g z, x_0 ~ N(0, 1), x_1 ~ N(MEAN, STD^2).

    The mean is t MEAN and the variance V = (1 - t)^2 + t^2 STD^2 + g^2 with g^2 = c t (1 - t), whose half derivative
    over V is the rate of the flow.
    """

    c: float = 2.0

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        return self.estimate(x, t, "velocity")[0]

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        t = t[:, None]
        off = x - t * MEAN
        variance = (1 - t) ** 2 + t**2 * STD**2 + self.c * t * (1 - t)
        half_rate = -(1 - t) + t * STD**2 + self.c * (1 - 2 * t) / 2
        found = {"velocity": MEAN + half_rate / variance * off, "score": -off / variance}
        return tuple(found[quantity] for quantity in quantities)


def many(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Starts from N(0, 1) and keys."""
    x_0 = torch.randn(size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x_0, fold_in(torch.tensor(seed), torch.arange(size))


def marginal(t: float) -> tuple[float, float]:
    """Mean and variance of `Interpolant` at a time."""
    return t * MEAN, (1 - t) ** 2 + t**2 * STD**2 + 2 * t * (1 - t)


def followed(solver, times: Tensor) -> tuple[float, float]:
    """Mean and variance behind the last time, from the marginal at the first: each step is linear, and is asked how."""
    mean, variance = marginal(float(times[0]))
    for t, t_next in pairwise(times):
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
        rest, by_x, by_z = solver.noisy_step(Interpolant(), x, t, t_next, z)[:, 0].tolist()
        mean, variance = (by_x - rest) * mean + rest, (by_x - rest) ** 2 * variance + (by_z - rest) ** 2
    return mean, variance


@each("diffusion", [(0.0, 0.0), (0.5, 0.5), (2.0, 2.0), (5.0, 5.0), (5.0, 0.0)])
@solvers
def test_a_gaussian_is_reached_whatever_the_diffusion(solver, diffusion):
    times = torch.linspace(0.001, 0.95, 501, dtype=torch.float64)
    expected_mean, expected_variance = marginal(0.95)
    mean, variance = followed(solver(diffusion=diffusion), times)
    assert mean == pytest.approx(expected_mean, rel=0.01)
    assert variance == pytest.approx(expected_variance, rel=0.02)


@solvers
def test_the_way_back_has_the_marginals_too(solver):
    """From N(MEAN, STD^2) against the time, with noise, to N(0, 1)."""
    x_0, keys = many(8_000, seed=1)
    back = solver(diffusion=(1.0, 1.0))
    start = back.sample(Interpolant(), MEAN + STD * x_0, grid(400).flip(0), keys=keys).final
    assert float(start.mean()) == pytest.approx(0, abs=0.03)
    assert float(start.std()) == pytest.approx(1, abs=0.03)
    assert abs(np.corrcoef(start[:, 0], x_0[:, 0])[0, 1]) < 0.9, "noise makes it forget where it came from"


def test_there_and_back_along_the_ordinary_equation():
    x_0, _ = many(100)
    there = sampler.Dopri5(rtol=1e-8, atol=1e-8).sample(Interpolant(), x_0, grid(1)).final
    back = sampler.Dopri5(rtol=1e-8, atol=1e-8).sample(Interpolant(), there, grid(1).flip(0)).final
    torch.testing.assert_close(back, x_0, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("solver", "plain"), [(BOTH[0], sampler.Euler()), (BOTH[1], sampler.Heun())])
def test_without_diffusion_it_is_the_plain_method(solver, plain):
    """From the first time on that lies far enough from the ends, where the score may be infinite."""
    times = torch.linspace(0.001, 0.99, 9, dtype=torch.float64)
    for field in (Interpolant(), known(growth)):
        x = states()[:, :1]
        drawn = solver(diffusion=(0, 0)).sample(field, x, times, keys=KEYS).x
        torch.testing.assert_close(drawn, plain.sample(field, x, times).x, rtol=1e-13, atol=1e-13)


@solvers
def test_the_score_of_an_ordinary_flow_serves(solver):
    """Straight paths without noise of their own, velocity known alone: the conversion gives the score."""
    x_0, keys = many(8_000)
    built = solver(diffusion=(1.0, 0.0))
    x_1 = built.sample(known(gaussian(MEAN, STD)), x_0, grid(200), keys=keys).final
    assert float(x_1.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(x_1.std()) == pytest.approx(STD, rel=0.03)
    assert abs(np.corrcoef(x_1[:, 0], x_0[:, 0])[0, 1]) < 0.9


def test_one_step_is_a_draw_from_its_moments():
    field, e = Interpolant(), 0.7
    solver = sampler.EulerMaruyama(diffusion=(e, e))
    size, t, t_next = 40_000, torch.tensor(0.3).double(), torch.tensor(0.4).double()
    x = torch.full((size, 1), 0.8, dtype=torch.float64)
    mean, std = solver.moments(field, x, t, t_next)
    velocity, score = field.estimate(x, t.expand(size), "velocity", "score")
    torch.testing.assert_close(mean, x + 0.1 * velocity + 0.1 * e * score)
    assert float(std) == pytest.approx(math.sqrt(2 * e * 0.1))
    _, keys = many(size)
    drawn = solver.sample(field, x, torch.stack([t, t_next]), keys=keys).final
    assert stats.kstest((drawn - mean)[:, 0].numpy() / float(std), "norm").pvalue > 0.01


@pytest.mark.parametrize(("solver", "order"), [(BOTH[0], 1), (BOTH[1], 2)])
def test_the_variance_converges_at_the_weak_order_of_the_method(solver, order):
    _, truth = marginal(0.8)
    built = solver(diffusion=(1.0, 1.0))
    grids = (torch.linspace(0.1, 0.8, steps + 1, dtype=torch.float64) for steps in (16, 32, 64))
    errors = [abs(followed(built, times)[1] - truth) for times in grids]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.15)


@solvers
def test_the_noise_is_that_of_the_keys(solver):
    built = solver(diffusion=(1.0, 1.0))
    one, other = (built.sample(known(growth), states(), grid(4), keys=KEYS + shift).final for shift in (0, 1))
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match=r"^keys: None, .*; give one for each example"):
        built.sample(known(growth), states(), grid(4))


@solvers
def test_a_step_that_ends_at_the_data_adds_no_noise(solver):
    built = solver(diffusion=(3.0, 3.0))
    times = torch.tensor([0.9, 1.0], dtype=torch.float64)
    one, other = (built.sample(known(growth), states(), times, keys=KEYS + shift).final for shift in (0, 1))
    assert torch.equal(one, other)


def test_the_step_to_the_data_is_that_of_heun():
    """The slopes at 0.9, and after Euler's step at the last time at which the field is evaluated, 0.999."""
    times = torch.tensor([0.9, 1.0], dtype=torch.float64)
    x = states()[:, :1]
    first = (1 + math.cos(0.9)) * x
    second = (1 + math.cos(0.999)) * (x + 0.1 * first)
    final = sampler.StochasticHeun(diffusion=(3.0, 3.0)).sample(known(growth), x, times, keys=KEYS).final
    torch.testing.assert_close(final, x + 0.05 * (first + second))


def test_keyed_normals_are_normal_and_independent():
    keys = fold_in(torch.tensor(3), torch.arange(400))[:, None]
    drawn = normal(fold_in(keys, torch.arange(100)))
    assert drawn.dtype == torch.float64
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01
    correlation = np.corrcoef(drawn.numpy(), rowvar=False) - np.eye(100)
    assert np.abs(correlation).max() < 5 / math.sqrt(400)
