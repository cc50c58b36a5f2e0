"""Learning from pairs that a flow has drawn: what the best network of each round is, in closed form.

A network that says weight * x at each time is enough for one-dimensional Gaussians, and its loss is a square, so that
the best weight is found from two gradients. The points have exact moments: nothing here is an estimate.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.trainer.flow.test_sampler import gaussian, grid
from trainer.evaluation.transport import straightness, transport_cost
from trainer.flow import UNCONDITIONAL, coupling, objective, path, sampler, target
from trainer.flow.coupling import Pairs
from trainer.flow.path import PathSample

STRAIGHT = path.LinearConfig().build()
SIZE = 200


def ends(std: float) -> tuple[Tensor, Tensor]:
    """Source and data [N, 1] of mean 0 and deviations 1 and `std`, uncorrelated."""
    x = torch.randn(SIZE, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(SIZE)
    return x[:, :1], std * x[:, 1:]


def learned(x_0: Tensor, x_1: Tensor) -> sampler.VelocityField:
    """The velocity weight(t) x of least loss on given pairs."""
    generator = torch.Generator()
    pairs = coupling.build(coupling.Paired()).draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator)
    regression = objective.Regression().build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT)))

    def slope(weight: float, point: PathSample) -> Tensor:
        free = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
        loss = regression.loss(lambda x, *_: free * x, point, UNCONDITIONAL).mean()
        return torch.autograd.grad(loss, free)[0]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        point = STRAIGHT.sample(pairs, t[:1].expand(SIZE), generator=generator)
        at_zero, at_one = slope(0.0, point), slope(1.0, point)
        return -at_zero / (at_one - at_zero) * x

    return velocity


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_the_first_flow_of_gaussians_bends_and_the_second_is_straight(std):
    x_0, x_1 = ends(std)
    first = learned(x_0, x_1)
    for time in (0.0, 0.3, 0.9):
        t = torch.full((SIZE,), time, dtype=torch.float64)
        torch.testing.assert_close(first(x_0, t), gaussian(0.0, std)(x_0, t))
    drawn = sampler.Heun().sample(first, x_0, grid(100))
    torch.testing.assert_close(drawn.final, std * x_0, rtol=1e-3, atol=1e-3)
    second = learned(x_0, std * x_0)
    for time in (0.0, 0.3, 0.9):
        t = torch.full((SIZE,), time, dtype=torch.float64)
        torch.testing.assert_close(second(x_0, t), (std - 1) * x_0 / (1 - time + time * std))
    again = sampler.Euler().sample(second, x_0, grid(20))
    one = sampler.Euler().sample(second, x_0, grid(1)).final
    torch.testing.assert_close(one, std * x_0)
    torch.testing.assert_close(again.final, one)
    assert straightness(again) == pytest.approx(0, abs=1e-12)
    assert transport_cost(again) == pytest.approx((std - 1) ** 2, abs=1e-12)


def test_one_step_is_off_by_no_more_than_the_flow_bends():
    """Between a straight field and a bent one: the error of one step falls as the square root of the straightness."""
    std, x_0 = 0.5, ends(0.5)[0]
    straight, bent = learned(x_0, std * x_0), gaussian(0.0, std)
    shares = []
    for share in (0.1, 0.01, 0.001):
        between = _mixed(straight, bent, share)
        fine = sampler.Euler().sample(between, x_0, grid(100))
        off = (sampler.Euler().sample(between, x_0, grid(1)).final - fine.final).square().mean().sqrt()
        shares.append(float(off) / math.sqrt(straightness(fine) * transport_cost(fine)))
    assert max(shares) < 3
    assert max(shares) == pytest.approx(min(shares), rel=0.2)


def _mixed(one: sampler.VelocityField, other: sampler.VelocityField, share: float) -> sampler.VelocityField:
    return lambda x, t: (1 - share) * one(x, t) + share * other(x, t)


def velocity_of(weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x @ weight) + t[:, None]


def noise_of(weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity stands for on the straight path."""
    return x - t[:, None] * velocity_of(weight, x, t)


def data_of(weight: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The data that a velocity stands for on the straight path."""
    return x + (1 - t[:, None]) * velocity_of(weight, x, t)


@pytest.mark.parametrize(("said", "kind"), [(noise_of, target.Noise), (data_of, target.Data)])
def test_on_the_straight_path_rectified_diffusion_is_rectified_flow(
    said: Callable[[Tensor, Tensor, Tensor], Tensor], kind: type[target.Noise] | type[target.Data]
):
    """The same step whatever of the two ends is predicted, where velocities are compared: loss and gradient."""
    generator = torch.Generator().manual_seed(3)
    x_0, x_1, weight = (torch.randn(7, 7, dtype=torch.float64, generator=generator) for _ in range(3))
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    point = STRAIGHT.sample(Pairs(x_0, x_1), t, generator=generator)

    def step(
        said: Callable[[Tensor, Tensor, Tensor], Tensor], predicted: target.Target, config: objective.Config
    ) -> tuple[Tensor, Tensor]:
        free = weight.clone().requires_grad_()
        built = config.build(objective.ObjectiveInputs(predicted))
        loss = built.loss(lambda x, t, _: said(free, x, t), point, UNCONDITIONAL).mean()
        return loss.detach(), torch.autograd.grad(loss, free)[0]

    flow = step(velocity_of, target.Velocity().build(STRAIGHT), objective.Regression())
    diffusion = step(said, kind().build(STRAIGHT), objective.Regression(space="velocity"))
    for ours, theirs in zip(diffusion, flow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
