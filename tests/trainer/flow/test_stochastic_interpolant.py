"""Stochastic interpolants against closed forms and other implementations."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchcfm.conditional_flow_matching import SchrodingerBridgeConditionalFlowMatcher

from tests.each import each
from tests.trainer.flow.paths import NOISY, name
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import path
from trainer.flow.coupling import Pairs
from trainer.flow.sampler import Dopri5
from trainer.flow.target import VelocityAndNoise, convert_pair
from trainer.task import FlowTask
from trainer.training.generators import micro_batch_generator

MEAN, STD = 2.0, 0.5
two_sided = each("config", [config for config in NOISY if config.kind == "stochastic_interpolant"], ids=name)


class Fields:
    """What x_t = a x_0 + b x_1 + g z tells of the rest where x_0 ~ N(0, 1) and x_1 ~ N(MEAN, STD^2).

    All are normal together, so that E[y | x_t] = E y + cov(y, x_t) / var(x_t) (x_t - E x_t).
    """

    def __init__(self, config: path.Config, x: Tensor, t: Tensor) -> None:
        self.c = config.build().coefficients(t).broadcast(x)
        c = self.c
        mean, variance = c.b * MEAN, c.a**2 + c.b**2 * STD**2 + c.g**2
        off = (x - mean) / variance
        without_noise = c.a * c.da + c.b * c.db * STD**2
        self.velocity = c.db * MEAN + (without_noise + c.g * c.dg) * off
        self.velocity_without_noise = c.db * MEAN + without_noise * off
        self.noise = c.g * off
        self.score = -off
        self.data = MEAN + c.b * STD**2 * off


def inside(size: int = 9) -> Tensor:
    return torch.linspace(0.05, 0.93, size, dtype=torch.float64)


def states(size: int = 9) -> Tensor:
    return 2 * torch.randn(size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@two_sided
def test_velocity_noise_and_score_of_two_gaussians_belong_together(config):
    """Albergo, Boffi and Vanden-Eijnden, arXiv 2303.08797, equations 2.11 to 2.14: b = v - g g' s, s = -eta / g."""
    x, t = states(), inside()
    exact = Fields(config, x, t)
    balance = exact.velocity - exact.velocity_without_noise + exact.c.g_dg * exact.score
    torch.testing.assert_close(balance, torch.zeros_like(balance), rtol=0, atol=1e-12)
    along = config.build()
    found = convert_pair(exact.velocity, exact.noise, x, t, along, to="score")
    torch.testing.assert_close(found, exact.score, rtol=1e-9, atol=1e-9)
    if config.interpolation != "encoding_decoding":  # which leaves one of its ends out
        found = convert_pair(exact.velocity, exact.noise, x, t, along, to="data")
        torch.testing.assert_close(found, exact.data, rtol=1e-9, atol=1e-9)


@two_sided
@each("time", [0.2, 0.8])
def test_what_a_regression_on_the_path_finds_are_those_fields(config, time):
    """Least squares over x_t and 1, which for normal points is the conditional mean, within its standard error."""
    size, generator = 200_000, torch.Generator().manual_seed(1)
    x_0, x_1 = torch.randn(2, size, 1, dtype=torch.float64, generator=generator)
    t = torch.full((size,), time, dtype=torch.float64)
    along = config.build()
    sample = along.sample(Pairs(x_0, MEAN + STD * x_1), t, generator=generator)
    wanted = VelocityAndNoise().build(along).make(sample)
    features = torch.cat([sample.x_t, torch.ones(size, 1, dtype=torch.float64)], dim=1)
    fitted = torch.linalg.lstsq(features, wanted).solution
    at = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    exact = Fields(config, at, t[:3])
    found = torch.cat([at, torch.ones_like(at)], dim=1) @ fitted
    scale = wanted.std(0) / size**0.5 * (1 + (at - sample.x_t.mean()).abs() / sample.x_t.std())
    truth = torch.cat([exact.velocity, exact.noise], dim=1)
    assert float(((found - truth).abs() / scale).max()) < 5


@two_sided
def test_the_flow_leads_there_and_back(config):
    """Between the times where nothing is stiff; there is exact: a normal law moves by mean and deviation."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return Fields(config, x, t).velocity

    times = torch.tensor([0.02, 0.98], dtype=torch.float64)
    c = config.build().coefficients(times)
    means, deviations = c.b * MEAN, (c.a**2 + c.b**2 * STD**2 + c.g**2).sqrt()
    x = means[0] + deviations[0] * states()
    there = Dopri5(rtol=1e-8, atol=1e-8).sample(field, x, times).final
    torch.testing.assert_close(there, means[1] + deviations[1] * states(), rtol=0, atol=1e-4)
    back = Dopri5(rtol=1e-8, atol=1e-8).sample(field, there, times.flip(0)).final
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def learned(flow: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Loss of each example and gradients of one step, of a small network with fixed weights."""
    document = {"run": {"dir": "unused"}, "model": {"kind": "mlp"}, "data": {"kind": "toy"}}
    task = FlowTask(RunConfig.model_validate({**document, "optim": {"steps": 1, "global_batch": 1}, "flow": flow}))
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    x_1 = torch.randn(16, 2, generator=torch.Generator().manual_seed(3))
    batch = Batch(x_1, None, torch.arange(16))
    (drawn,) = task.draw([batch], [micro_batch_generator(0, "train", 1, 0)])
    losses = task.loss(lambda x, *_: network(x), drawn).per_example
    losses.mean().backward()
    return losses.detach(), [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_without_noise_of_its_own_it_is_conditional_flow_matching_bit_by_bit():
    interpolant = {"kind": "stochastic_interpolant", "interpolation": "linear", "gamma": {"kind": "zero"}}
    losses, gradients = learned({"path": interpolant})
    expected, expected_gradients = learned({"path": {"kind": "linear"}})
    assert torch.equal(losses, expected)
    assert len(gradients) == 2
    assert all(torch.equal(*both) for both in zip(gradients, expected_gradients, strict=True))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0**0.5])
def test_points_and_velocities_are_those_of_torchcfms_schrodinger_bridge(sigma):
    """Both are x_t = (1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) z, on the same draws.

    Theirs adds 1e-8 to 2 t (1 - t) before it divides by it, which shows nearer to the ends.
    """
    x_0, x_1 = torch.randn(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    ours = path.StochasticInterpolantConfig(gamma=path.BrownianConfig(factor=sigma**2)).build()
    sample = ours.sample(Pairs(x_0, x_1), t, generator=torch.Generator().manual_seed(3))
    theirs = SchrodingerBridgeConditionalFlowMatcher(sigma)
    x_t = theirs.sample_xt(x_0, x_1, t, sample.noise)
    torch.testing.assert_close(sample.x_t, x_t, rtol=0, atol=1e-6)
    torch.testing.assert_close(sample.velocity, theirs.compute_conditional_flow(x_0, x_1, t, x_t), rtol=0, atol=1e-6)
