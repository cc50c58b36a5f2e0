import numpy as np
import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.unions import members
from trainer.flow import UNCONDITIONAL, Condition, objective, path, target
from trainer.flow.coupling import Pairs
from trainer.flow.path import PathSample

STRAIGHT = path.Affine(path.linear)
SETTINGS = [
    objective.Regression(error=error, space=space)
    for error in (objective.Squared(), objective.PseudoHuber(), objective.PseudoHuber(scale=0.3))
    for space in ("prediction", "data", "velocity")
]
objectives = each("config", SETTINGS, ids=str)


def sample(size: int = 6, dtype: torch.dtype = torch.float64) -> PathSample:
    x_0, x_1 = torch.randn(2, size, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0.1, 0.9, size, dtype=dtype)
    return STRAIGHT.sample(Pairs(x_0, x_1), t, generator=torch.Generator())


def noisy_sample(config: path.Config, size: int = 6, dtype: torch.dtype = torch.float64) -> PathSample:
    point = sample(size, dtype)
    pairs = Pairs(point.x_0, point.x_1)
    return config.build().sample(pairs, point.t, generator=torch.Generator().manual_seed(1))


def model(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
    shift = 0 if condition.label is None else condition.label.reshape(-1, 1, 1, 1)
    return torch.tanh(x_t) + t.reshape(-1, 1, 1, 1) + shift


def test_every_kind_is_tested():
    of_features = {objective.Aligned, objective.FeatureResidual}  # in test_blockwise_sampling.py
    of_maps = {objective.MongeMap}  # in test_monge_map.py
    taught = {objective.VelocityDistillation, objective.ConsistencyDistillation}  # in test_distillation.py
    of_heads = {objective.Transition}  # in test_transition.py
    of_chains = {objective.CausalTransition}  # in test_causal_transition.py
    of_letters = {objective.CrossEntropy}  # in test_letters.py
    of_captions = {objective.EncodedSource}  # in test_encoded.py
    elsewhere = of_features | of_maps | taught | of_heads | of_chains | of_letters | of_captions
    assert {type(config) for config in SETTINGS} | elsewhere == set(members(objective.Config))


@objectives
def test_losses_are_one_per_example_and_terms_are_scalars(config):
    loss = config.build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT))).loss(
        model, sample(), UNCONDITIONAL
    )
    assert loss.per_example.shape == (6,)
    assert bool((loss.per_example >= 0).all())
    assert all(term.shape == () and not term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 4)], ids=str)
def test_the_mean_of_a_micro_batch_counts_each_example_by_its_weight(shape):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, dtype=torch.float64, generator=generator)
    weight = torch.rand(6, dtype=torch.float64, generator=generator)
    loss, each = objective.LossTerms(values, {}), values.numpy().reshape(6, -1).mean(1)
    np.testing.assert_allclose(loss.per_example, each)
    np.testing.assert_allclose(loss.mean(), each.mean())
    np.testing.assert_allclose(loss.mean(weight), (each * weight.numpy()).mean())


@objectives
def test_gradient_matches_finite_differences(config):
    built = config.build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT)))
    labels, fixed = torch.arange(6) % 3, sample()

    def mean_loss(scale: Tensor, shift: Tensor) -> Tensor:
        def scaled(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return scale * model(x_t, t, condition) + shift

        return built.loss(scaled, fixed, Condition(labels)).mean()

    inputs = (torch.tensor(0.7, dtype=torch.float64), torch.linspace(-1, 1, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(mean_loss, [value.requires_grad_() for value in inputs])


@objectives
@each("kind", [target.Velocity, target.Data, target.Noise], ids=lambda kind: kind.__name__)
def test_a_perfect_model_costs_nothing(config, kind):
    point, predicted = sample(), kind().build(STRAIGHT)
    loss = config.build(objective.ObjectiveInputs(predicted)).loss(
        lambda *_: predicted.make(point), point, UNCONDITIONAL
    )
    torch.testing.assert_close(loss.per_example, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)


def test_regression_is_the_mean_squared_error():
    point, condition = sample(), Condition(torch.arange(6))
    loss = (
        objective.Regression()
        .build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT)))
        .loss(model, point, condition)
    )
    error = (model(point.x_t, point.t, condition) - point.velocity).numpy().reshape(6, 9)
    each = (error**2).sum(1) / 9
    np.testing.assert_allclose(loss.per_example, each)


def test_pseudo_huber_of_noise_in_the_space_of_the_data():
    """The data that a noise stands for, (x_t - (1 - t) noise) / t, is what is compared."""
    point = sample()
    config = objective.Regression(error=objective.PseudoHuber(scale=0.05), space="data")
    loss = config.build(objective.ObjectiveInputs(target.Noise().build(STRAIGHT))).loss(model, point, UNCONDITIONAL)
    t = point.t.numpy().reshape(6, 1, 1, 1)
    data = (point.x_t.numpy() - (1 - t) * model(point.x_t, point.t, UNCONDITIONAL).numpy()) / t
    each = np.sqrt((data - point.x_1.numpy()) ** 2 + 0.05**2) - 0.05
    np.testing.assert_allclose(loss.per_example, each.mean((1, 2, 3)))


@pytest.mark.parametrize("config", [path.LinearConfig(), path.TrigonometricConfig()], ids=str)
def test_the_data_point_of_a_part_of_a_path_is_its_end(config):
    """b_e (x_t / b_t + (n_e - n_t) noise) in noise-to-signal ratios n = a / b, against the end that the pair holds."""
    built, t = config.build(), torch.linspace(0.25, 0.5, 6, dtype=torch.float64)
    ends = torch.randn(2, 6, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    interval = torch.tensor([[0.25, 0.5]], dtype=torch.float64).expand(6, 2)
    point = built.sample(Pairs(ends[0], ends[1], interval=interval), t, generator=torch.Generator())
    regression = objective.Regression(space="data").build(objective.ObjectiveInputs(target.Noise().build(built)))
    loss = regression.loss(model, point, UNCONDITIONAL)
    now, end = (built.coefficients(at).broadcast(point.x_t) for at in (t, interval[:, 1]))
    reached = end.b * (point.x_t / now.b + (end.a / end.b - now.a / now.b) * model(point.x_t, t, UNCONDITIONAL))
    torch.testing.assert_close(loss.per_example, (reached - ends[1]).square().mean((1, 2, 3)))


def test_the_whole_path_as_its_only_part_changes_nothing():
    whole = sample()
    interval = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(6, 2)
    part = STRAIGHT.sample(Pairs(whole.x_0, whole.x_1, interval=interval), whole.t, generator=torch.Generator())
    built = objective.Regression(space="data").build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT)))
    losses = [built.loss(model, point, UNCONDITIONAL).per_example for point in (part, whole)]
    torch.testing.assert_close(*losses)


def test_several_fields_have_a_term_each():
    point = noisy_sample(path.StochasticInterpolantConfig())
    both = target.VelocityAndNoise().build(path.StochasticInterpolantConfig().build())
    loss = (
        objective.Regression()
        .build(objective.ObjectiveInputs(both))
        .loss(lambda *_: torch.cat([point.velocity + 1, point.noise + 3], dim=1), point, UNCONDITIONAL)
    )
    assert float(loss.terms["velocity_mean_squared_error"]) == pytest.approx(1)
    assert float(loss.terms["noise_mean_squared_error"]) == pytest.approx(9)
    torch.testing.assert_close(loss.per_example, torch.full((6,), 5.0, dtype=torch.float64))


def test_an_antithetic_loss_is_the_mean_over_a_point_and_its_mirror():
    config = path.StochasticInterpolantConfig()
    point, condition = noisy_sample(config), Condition(torch.arange(6))
    assert point.mirror is not None
    velocity = target.Velocity().build(config.build())
    antithetic = objective.Regression(antithetic=True).build(objective.ObjectiveInputs(velocity))
    loss = antithetic.loss(model, point, condition)
    each = [
        objective.Regression().build(objective.ObjectiveInputs(velocity)).loss(model, one, condition).per_example
        for one in (point, point.mirror)
    ]
    torch.testing.assert_close(loss.per_example, (each[0] + each[1]) / 2)


def test_antithetic_pairs_take_the_variance_out_of_the_gradient():
    """Near an end the velocity is g' z with g' large, and its product with an even prediction cancels in a pair."""
    config, size = path.StochasticInterpolantConfig(), 4000
    ends = torch.randn(2, size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    t = torch.full((size,), 1e-4, dtype=torch.float64)
    point = config.build().sample(Pairs(ends[0], ends[1]), t, generator=torch.Generator().manual_seed(4))
    spread = []
    for antithetic in (False, True):
        weight = torch.zeros(size, 1, dtype=torch.float64, requires_grad=True)
        built = objective.Regression(antithetic=antithetic).build(
            objective.ObjectiveInputs(target.Velocity().build(config.build()))
        )

        def constant(x_t: Tensor, *_: object, weight: Tensor = weight) -> Tensor:
            return weight.repeat(len(x_t) // size, 1)

        built.loss(constant, point, UNCONDITIONAL).per_example.sum().backward()
        assert weight.grad is not None
        spread.append(float(weight.grad.std()))
    assert spread[1] < spread[0] / 20


def test_the_loss_of_a_half_precision_model_is_single_precision():
    point = sample(dtype=torch.float32)
    loss = (
        objective.Regression()
        .build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT)))
        .loss(lambda x, *_: x.bfloat16(), point, UNCONDITIONAL)
    )
    assert loss.per_example.dtype == torch.float32
