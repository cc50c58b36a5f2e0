import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.test_sampler import gaussian, grid, growth, known, states
from trainer.flow import path, sampler
from trainer.flow.target import Quantity


def circle(t: Tensor) -> path.Coefficients:
    """a = cos(pi t / 2), b = sin(pi t / 2)."""
    turn, zero = math.pi / 2 * t, torch.zeros_like(t)
    a, b, rate = turn.cos(), turn.sin(), math.pi / 2
    return path.Coefficients(a=a, b=b, g=zero, da=-rate * b, db=rate * a, dg=zero, g_dg=zero)


@dataclass(frozen=True)
class NoisePredictor(sampler.Field):
    """What is known of a network that finds the noise in a state: epsilon(x, t) = sin(x) + t."""

    schedule: path.Schedule

    def epsilon(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sin() + t[:, None]

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        c = self.schedule(t).broadcast(x)
        data, noise = self.estimate(x, t, "data", "noise")
        return c.da * noise + c.db * data

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        c = self.schedule(t).broadcast(x)
        noise = self.epsilon(x, t)
        known = {"noise": noise, "data": (x - c.a * noise) / c.b}
        return tuple(known[quantity] for quantity in quantities)


@each("times", [grid(1), grid(7), torch.tensor([0.0, 0.1, 0.7, 1.0]).double(), grid(5).flip(0)])
def test_on_the_straight_path_it_is_eulers_step(times):
    straight = path.Affine(path.linear)
    for velocity in (growth, gaussian(1.0, 0.5)):
        euler = sampler.Euler().sample(velocity, states(), times).x
        first_order = sampler.FirstOrder().build(straight).sample(known(velocity), states(), times).x
        torch.testing.assert_close(first_order, euler, rtol=1e-13, atol=1e-13)


def test_it_takes_the_steps_of_denoising_diffusion_implicit_models():
    """Equation 12 of Song et al. by cumulative products alone, over the noise levels of a published schedule."""
    published = path.DiffusionStepsConfig(beta_start=0.00085, beta_end=0.012, spacing="square_root")
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cat([torch.ones(1).double(), (1 - betas).cumprod(0)])  # the first: no noise at all

    built = published.build()
    config = sampler.FirstOrder(steps=7, trained_times=1000)
    times = config.grid().double()
    field = NoisePredictor(built.coefficients)
    drawn = config.build(built).sample(field, states(), times)

    timesteps = [round(1000 - i * 1000 / 7) - 1 for i in range(7)]
    assert timesteps == [999, 856, 713, 570, 428, 285, 142]
    x = states()
    for place, timestep in enumerate(timesteps):
        level = alphas_cumprod[timestep + 1]
        following = alphas_cumprod[timesteps[place + 1] + 1] if place < 6 else torch.ones(()).double()
        epsilon = field.epsilon(x, times[place].expand(5))
        data = (x - (1 - level).sqrt() * epsilon) / level.sqrt()
        x = following.sqrt() * data + (1 - following).sqrt() * epsilon
        torch.testing.assert_close(drawn.x[place + 1], x, rtol=1e-6, atol=1e-6)


def test_trailing_times_are_trained_times():
    times = sampler.FirstOrder(steps=6, trained_times=50).grid().double() * 50
    torch.testing.assert_close(times, times.round(), rtol=0, atol=1e-5)
    assert times[0] == 0
    assert times[-1] == 50


def test_the_error_shrinks_with_the_steps():
    """A Gaussian along a quarter circle, v = (a a' + b b' s^2) / V x, ends at s x_0 whatever the path."""
    std = 0.5

    @dataclass(frozen=True)
    class Exact(sampler.Field):
        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            c = circle(t).broadcast(x)
            return (c.a * c.da + c.b * c.db * std**2) / (c.a**2 + c.b**2 * std**2) * x

        def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
            c = circle(t).broadcast(x)
            variance = c.a**2 + c.b**2 * std**2
            known = {"noise": c.a / variance * x, "data": c.b * std**2 / variance * x}
            return tuple(known[quantity] for quantity in quantities)

    built = sampler.FirstOrder().build(path.Affine(circle))
    errors = [float((built.sample(Exact(), states(), grid(n)).final - std * states()).norm()) for n in (50, 100, 200)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_constant_estimates_need_one_step():
    """Where data and noise stay what they are along a trajectory, any number of steps ends in the same place."""
    x_1 = torch.tensor([[3.0, -1.0]]).double().expand(5, 2)

    @dataclass(frozen=True)
    class Paired(sampler.Field):
        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            raise AssertionError((x, t))

        def estimate(self, x: Tensor, t: Tensor, *_: Quantity) -> tuple[Tensor, ...]:
            c = circle(t).broadcast(x)
            return x_1, (x - c.b * x_1) / c.a

    built = sampler.FirstOrder().build(path.Affine(circle))
    for steps in (1, 2, 9):
        torch.testing.assert_close(built.sample(Paired(), states(), grid(steps)).final, x_1)


@each("steps", [3, 7, 97, 100])
def test_equal_times_of_first_order_steps_are_rounded_once(steps: int) -> None:
    expected = torch.tensor([step / steps for step in range(steps + 1)], dtype=torch.float64).float()
    assert torch.equal(sampler.FirstOrder(steps=steps).grid(), expected)
