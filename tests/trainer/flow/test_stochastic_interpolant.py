"""Stochastic interpolants against closed forms and other implementations; fields and targets are in test_conversion."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchcfm.conditional_flow_matching import SchrodingerBridgeConditionalFlowMatcher

from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import path
from trainer.flow.coupling import Pairs
from trainer.task import FlowTask
from trainer.training.generators import micro_batch_generator


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
