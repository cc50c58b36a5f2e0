"""Steps of rollouts against their formulas, and what rollouts are a function of."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from trainer.config.task import GRPOConfig
from trainer.flow.field import NetworkField
from trainer.flow.path import LinearConfig
from trainer.flow.sampler import Euler, Field
from trainer.flow.target import Velocity
from trainer.task.policy.rollout import Choice, GroupKeys, NoisySteps, full_sde, to_the_branches

NETWORK = nn.Identity()
A = 0.7


def settings(**changes: Any) -> GRPOConfig:
    return GRPOConfig.model_validate({"reward": {"kind": "ink"}, "steps": 8, "a": A, **changes})


def field(velocity: Callable[[Tensor, Tensor], Tensor]) -> Field:
    return NetworkField(velocity, Velocity().build(LinearConfig().build()))


def to_a_gaussian(x: Tensor, t: Tensor) -> Tensor:
    """The velocity from N(0, 1) to N(1, 0.5^2) in each coordinate, in closed form."""
    t = t[:, None]
    variance = (1 - t) ** 2 + 0.25 * t**2
    return 1 + (0.25 * t - (1 - t)) / variance * (x - t)


@dataclass
class Rolled:
    choices: list[Choice]
    ends: Tensor


def rolled(config: GRPOConfig, keys: Tensor) -> Rolled:
    steps, own = NoisySteps(config), field(to_a_gaussian)
    of_groups = GroupKeys.of(keys, seeds=config.seeds, branches=config.branches)
    noise = of_groups.noise((3,))
    if config.rollout == "full_sde":
        return Rolled(*full_sde(steps, NETWORK, own, noise, of_groups))
    choices = to_the_branches(steps, NETWORK, own, noise, of_groups)
    ends = [steps.follow(own, one.y.flatten(0, 1), number + 1, config.steps) for number, one in enumerate(choices)]
    return Rolled(choices, torch.stack(ends))


def test_deviations_and_means_are_those_of_the_equation() -> None:
    steps, x = NoisySteps(settings()), torch.tensor([[0.3, -1.2]])
    v = to_a_gaussian(x, torch.tensor([0.0]))
    known = (0.700, 0.655, 0.429, 0.320, 0.247, 0.192, 0.143)
    for number, std_then in enumerate(known):
        t, h = number / 8, 1 / 8
        mean, std = steps.moments(field(lambda *_: v), x, number)
        sigma_2 = A**2 / h if number == 0 else A**2 * (1 - t) / t
        from_drift = x + h * (v * (1 + sigma_2 * t / (2 * (1 - t))) - sigma_2 / (2 * (1 - t)) * x)
        torch.testing.assert_close(mean, from_drift, rtol=5e-3 if number == 0 else 1e-5, atol=1e-5)
        assert float(std) == pytest.approx(math.sqrt(sigma_2 * h), rel=1e-5)
        assert float(std) == pytest.approx(std_then, abs=6e-4)
    np.testing.assert_allclose(
        steps.deviations, [float(steps.moments(field(to_a_gaussian), x, k)[1]) for k in range(7)]
    )


def test_weights_make_the_scale_of_the_scores_equal_but_for_the_first_step() -> None:
    steps = NoisySteps(settings(weight="noise_mean_one"))
    scales = []
    for number in range(steps.passes):
        v = torch.zeros(1, 1, requires_grad=True)
        mean, std = steps.moments(field(lambda *_, v=v: v), torch.ones(1, 1), number)
        (slope,) = torch.autograd.grad(mean.sum(), v)
        scales.append(steps.weights[number] * float(slope / std))
    np.testing.assert_allclose(scales[2:], scales[1], rtol=1e-4)
    assert scales[1] / scales[0] == pytest.approx(1 + A**2 / 2, rel=2e-3), "there the field is asked at t = 0.001"


def test_weights_have_mean_one_for_any_noise_or_are_the_published_ones() -> None:
    little, much = (NoisySteps(settings(weight="noise_mean_one", a=a)).weights for a in (0.2, 1.5))
    np.testing.assert_allclose(little, much, rtol=1e-6)
    assert np.mean(little) == pytest.approx(1)
    published = NoisySteps(settings(weight="noise_scaled"))
    np.testing.assert_allclose(published.weights, 2.25 * published.deviations.numpy())
    assert NoisySteps(settings()).weights == (1.0,) * 7


@pytest.mark.parametrize("rollout", ["full_sde", "branch"])
def test_draws_are_a_function_of_prompt_and_place(rollout: str) -> None:
    config, keys = settings(rollout=rollout, group=6, branches=3), torch.tensor([5, 6, 7])
    together, turned = rolled(config, keys), rolled(config, keys.flip(0))
    alone = [rolled(config, keys[prompt : prompt + 1]) for prompt in range(3)]
    for number, choice in enumerate(together.choices):
        for name in ("x", "y", "log_density"):
            values = getattr(choice, name)
            torch.testing.assert_close(
                values, torch.cat([getattr(one.choices[number], name) for one in alone]), rtol=0, atol=0
            )
            by_prompt = getattr(turned.choices[number], name).unflatten(0, (3, -1)).flip(0).flatten(0, 1)
            torch.testing.assert_close(values, by_prompt, rtol=0, atol=0)
    ends = [one.ends for one in alone]
    torch.testing.assert_close(together.ends, torch.cat(ends, dim=-2), rtol=0, atol=0)
    assert together.ends.unique(dim=-2).shape == together.ends.shape, "no two examples are alike"


def test_examples_of_a_seed_begin_together_and_part() -> None:
    begun = rolled(settings(group=6, branches=3), torch.tensor([5])).choices
    first, second = (choice.x.view(2, 3, 3) for choice in begun[:2])
    assert torch.equal(first, first[:, :1].expand_as(first))
    assert not torch.equal(first[0], first[1])
    assert len(second.flatten(0, 1).unique(dim=0)) == 6


def test_choices_are_normal_around_the_mean() -> None:
    config = settings(rollout="branch", group=2000, branches=2000)
    for number, choice in enumerate(rolled(config, torch.tensor([1])).choices):
        mean, std = NoisySteps(config).moments(field(to_a_gaussian), choice.x, number)
        z = ((choice.y[0] - mean) / std).numpy()
        assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
        density = stats.norm.logpdf(choice.y[0], mean, std).mean(1)
        np.testing.assert_allclose(choice.log_density[0], density, rtol=0, atol=1e-4)


def test_branches_leave_the_path_without_noise_at_their_step() -> None:
    config = settings(rollout="branch", group=4, branches=2, a=1e-6)
    found = rolled(config, torch.tensor([3, 4]))
    noise = GroupKeys.of(torch.tensor([3, 4]), seeds=2, branches=2).noise((3,))
    way = Euler().sample(lambda x, t: to_a_gaussian(x, t.clamp(min=1e-3)), noise, torch.linspace(0, 1, 9))
    for number, choice in enumerate(found.choices):
        torch.testing.assert_close(choice.x, way.x[number])
    ends = found.ends.view(7, 4, 2, 3)
    torch.testing.assert_close(ends, way.final[None, :, None].expand_as(ends), rtol=0, atol=1e-4)


def test_a_step_of_branches_asks_the_network_once() -> None:
    asked = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        asked.append(len(x))
        return to_a_gaussian(x, t)

    keys = GroupKeys.of(torch.tensor([1]), seeds=2, branches=3)
    to_the_branches(NoisySteps(settings()), NETWORK, field(counted), keys.noise((3,)), keys)
    assert asked == [2] * 7
