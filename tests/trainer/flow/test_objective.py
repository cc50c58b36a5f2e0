import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.flow.unions import members, name
from trainer.flow import objective, path, target
from trainer.flow.path import PathSample

objectives = pytest.mark.parametrize("config", members(objective.Config), ids=name)


def sample(size: int = 6, dtype: torch.dtype = torch.float64) -> PathSample:
    draws = torch.randn(3, size, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return PathSample(draws[0], draws[1], draws[2], torch.linspace(0, 1, size, dtype=dtype))


def model(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
    shift = 0 if condition is None else condition.reshape(-1, 1, 1, 1)
    return torch.tanh(x_t) + t.reshape(-1, 1, 1, 1) + shift


def weights(size: int = 6) -> Tensor:
    return torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.1


@objectives
def test_losses_are_one_per_example_and_terms_are_scalars(config):
    loss = objective.build(config()).loss(model, sample(), None, weights())
    assert loss.per_example.shape == (6,)
    assert bool((loss.per_example >= 0).all())
    assert loss.terms
    assert all(term.shape == () and not term.requires_grad for term in loss.terms.values())


@objectives
def test_only_ratios_of_weights_matter(config):
    built = objective.build(config())
    one, ten = (built.loss(model, sample(), None, factor * weights()).per_example for factor in (1, 10))
    torch.testing.assert_close(one, ten)


@objectives
def test_equal_weights_are_no_weights(config):
    built = objective.build(config())
    loss = built.loss(model, sample(), None, torch.ones(6, dtype=torch.float64))
    doubled = built.loss(model, sample(), None, torch.full((6,), 2.0, dtype=torch.float64))
    assert torch.equal(loss.per_example, doubled.per_example)


@objectives
def test_gradient_matches_finite_differences(config):
    built = objective.build(config())
    labels, fixed = torch.arange(6) % 3, sample()

    def mean_loss(scale: Tensor, shift: Tensor) -> Tensor:
        def scaled(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
            return scale * model(x_t, t, condition) + shift

        return built.loss(scaled, fixed, labels, weights()).per_example.mean()

    inputs = (torch.tensor(0.7, dtype=torch.float64), torch.linspace(-1, 1, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(mean_loss, [value.requires_grad_() for value in inputs])


def test_regression_is_the_weighted_mean_squared_error():
    point, labels, w = sample(), torch.arange(6), weights()
    loss = objective.Regression().loss(model, point, labels, w)
    error = (model(point.x_t, point.t, labels) - point.velocity).numpy().reshape(6, 9)
    each = (error**2).sum(1) / 9
    np.testing.assert_allclose(loss.per_example.mean(), np.average(each, weights=w.numpy()))
    np.testing.assert_allclose(loss.terms["mean_squared_error"], each.mean())


def test_a_perfect_model_costs_nothing():
    point = sample()
    loss = objective.Regression().loss(lambda *_: point.velocity, point, None, weights())
    assert torch.equal(loss.per_example, torch.zeros(6, dtype=torch.float64))


def test_the_target_decides_what_is_compared():
    class NoiseTarget(target.Velocity):
        def make(self, sample: PathSample) -> Tensor:
            return sample.noise

    point = sample()
    built = objective.build(objective.RegressionConfig(), target=NoiseTarget(path.Affine(path.linear)))
    assert float(built.loss(lambda *_: point.noise, point, None, weights()).per_example.sum()) == 0
    velocity = target.build(target.VelocityConfig(), path=path.Affine(path.linear))
    given, default = (objective.Regression(kind).loss(model, point, None, weights()) for kind in (velocity, None))
    assert torch.equal(given.per_example, default.per_example)


def test_the_loss_of_a_half_precision_model_is_single_precision():
    point = sample(dtype=torch.float32)
    loss = objective.Regression().loss(lambda x, *_: x.bfloat16(), point, None, torch.ones(6))
    assert loss.per_example.dtype == torch.float32


def test_the_global_mean_follows_from_micro_batches():
    """Rescaled by weight.mean() over the global mean, micro batches average to the loss of the whole batch."""
    point, w = sample(), weights()
    whole = objective.Regression().loss(model, point, None, w).per_example.mean()
    parts = []
    for rows in (slice(0, 3), slice(3, 6)):
        piece = PathSample(point.x_t[rows], point.velocity[rows], point.noise[rows], point.t[rows])
        loss = objective.Regression().loss(model, piece, None, w[rows])
        parts.append(loss.per_example.mean() * w[rows].mean() / w.mean())
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
