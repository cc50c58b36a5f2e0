import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.flow.unions import members, name
from trainer.flow import UNCONDITIONAL, Condition, objective, path, target
from trainer.flow.path import PathSample

objectives = pytest.mark.parametrize("config", members(objective.Config), ids=name)


def sample(size: int = 6, dtype: torch.dtype = torch.float64) -> PathSample:
    draws = torch.randn(5, size, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x_t, velocity, noise, x_0, x_1 = draws
    return PathSample(x_t, velocity, noise, torch.linspace(0, 1, size, dtype=dtype), x_0, x_1)


def model(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    shift = 0 if condition.label is None else condition.label.reshape(-1, 1, 1, 1)
    return torch.tanh(x_t) + t.reshape(-1, 1, 1, 1) + shift


@objectives
def test_losses_are_one_per_example_and_terms_are_scalars(config):
    loss = objective.build(config()).loss(model, sample(), UNCONDITIONAL)
    assert loss.per_example.shape == (6,)
    assert bool((loss.per_example >= 0).all())
    assert loss.terms
    assert all(term.shape == () and not term.requires_grad for term in loss.terms.values())


@objectives
def test_gradient_matches_finite_differences(config):
    built = objective.build(config())
    labels, fixed = torch.arange(6) % 3, sample()

    def mean_loss(scale: Tensor, shift: Tensor) -> Tensor:
        def scaled(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return scale * model(x_t, t, condition) + shift

        return built.loss(scaled, fixed, Condition(labels)).per_example.mean()

    inputs = (torch.tensor(0.7, dtype=torch.float64), torch.linspace(-1, 1, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(mean_loss, [value.requires_grad_() for value in inputs])


def test_regression_is_the_mean_squared_error():
    point, condition = sample(), Condition(torch.arange(6))
    loss = objective.Regression().loss(model, point, condition)
    error = (model(point.x_t, point.t, condition) - point.velocity).numpy().reshape(6, 9)
    each = (error**2).sum(1) / 9
    np.testing.assert_allclose(loss.per_example, each)
    np.testing.assert_allclose(loss.terms["mean_squared_error"], each.mean())


def test_a_perfect_model_costs_nothing():
    point = sample()
    loss = objective.Regression().loss(lambda *_: point.velocity, point, UNCONDITIONAL)
    assert torch.equal(loss.per_example, torch.zeros(6, dtype=torch.float64))


def test_the_target_decides_what_is_compared():
    class NoiseTarget(target.Velocity):
        def make(self, sample: PathSample) -> Tensor:
            return sample.noise

    point = sample()
    built = objective.build(objective.RegressionConfig(), target=NoiseTarget(path.Affine(path.linear)))
    assert float(built.loss(lambda *_: point.noise, point, UNCONDITIONAL).per_example.sum()) == 0
    velocity = target.build(target.VelocityConfig(), path=path.Affine(path.linear))
    given, default = (objective.Regression(kind).loss(model, point, UNCONDITIONAL) for kind in (velocity, None))
    assert torch.equal(given.per_example, default.per_example)


def test_the_loss_of_a_half_precision_model_is_single_precision():
    point = sample(dtype=torch.float32)
    loss = objective.Regression().loss(lambda x, *_: x.bfloat16(), point, UNCONDITIONAL)
    assert loss.per_example.dtype == torch.float32
