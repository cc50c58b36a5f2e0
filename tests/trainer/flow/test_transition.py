"""Transition matching where the head is known: of a Gaussian everything is a formula."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.seeds import fold_in
from trainer.flow import UNCONDITIONAL, Condition, path, sampler, target
from trainer.flow.chain import by_value
from trainer.flow.coupling import Pairs
from trainer.flow.field import TransitionField
from trainer.flow.objective import ObjectiveInputs, Transition
from trainer.flow.path import PathSample
from trainer.flow.question import FromTokens, HeadVelocities, Question, Tokens
from trainer.flow.sampler import Dopri5, Euler, Heun
from trainer.model.conditioning import PatchGrid

MEAN, STD = 1.5, 0.5
STRAIGHT = path.Affine(path.linear)


def transition(draws: int = 4, tokens: int = 1) -> Transition:
    return Transition(draws=draws).build(ObjectiveInputs(target.Velocity().build(STRAIGHT), tokens=tokens))


class Gaussian:
    """The network that knows Y = X_1 - X_0 given x_t, for X_0 ~ N(0, I) and X_1 ~ N(MEAN + label, STD^2 I).

    The features of its only token are the mean and the variance of Y, and its head is the exact flow from N(0, I).
    """

    def __init__(self) -> None:
        self.calls: list[type] = []

    def posterior(self, x: Tensor, t: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Conditioning of the joint normal distribution of Y and x_t."""
        mean = MEAN + (0 if label is None else label.to(x)[:, None])
        t = t.to(x)[:, None]
        variance_of_x, covariance = (1 - t) ** 2 + (t * STD) ** 2, t * STD**2 - (1 - t)
        expected = mean + covariance / variance_of_x * (x - t * mean)
        return expected, (1 + STD**2 - covariance**2 / variance_of_x).expand_as(x)

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, question: Question | None = None) -> Tensor:
        """Answers as a network with a head does."""
        self.calls.append(type(question))
        match question:
            case FromTokens(tokens, y, s):
                return self.head(tokens, y, s)
            case HeadVelocities(y, s):
                return self.head(self(x_t, t, condition, Tokens()), y, s)
        mean, variance = self.posterior(x_t, t, condition.label)
        return torch.stack([mean, variance], dim=-1)[:, None].flatten(2) if isinstance(question, Tokens) else mean

    def head(self, tokens: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """E[Y - Y_0 | Y_s = y]."""
        mean, variance = tokens[:, 0].unflatten(1, (-1, 2)).unbind(-1)
        s = s.to(y)
        return mean + (s * variance - (1 - s)) / ((1 - s) ** 2 + s**2 * variance) * (y - s * mean)


def field(network: Gaussian, condition: Condition = UNCONDITIONAL, guidance: float = 1.0) -> TransitionField:
    nothing = Condition(None if condition.label is None else torch.zeros_like(condition.label))
    return TransitionField.bound(network, target.Velocity().build(STRAIGHT), condition, nothing, guidance)


def keys(num: int, seed: int = 0) -> Tensor:
    return fold_in(torch.tensor(seed), torch.arange(num))


def noise(num: int, size: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(num, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawn(config: sampler.AnyConfig, x_0: Tensor, network: Gaussian | None = None, **bound: Any) -> sampler.Trajectory:
    solver = config.build(STRAIGHT)
    return solver.sample(field(network or Gaussian(), **bound), x_0, config.grid(), keys=keys(len(x_0)))


def points(num: int = 6, shape: tuple[int, ...] = (2,)) -> PathSample:
    x_0, x_1 = torch.randn(2, num, *shape, generator=torch.Generator().manual_seed(1))
    sample = STRAIGHT.sample(Pairs(x_0, x_1), torch.linspace(0.1, 0.9, num), generator=torch.Generator())
    return sample._replace(keys=keys(num))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_transitions_end_in_the_data_whatever_their_number(steps: int) -> None:
    """Every transition keeps the marginal distribution exactly, so that one is as good as many."""
    config = sampler.Transition(steps=steps, head=Heun(steps=16))
    final = drawn(config, noise(20_000)).final
    torch.testing.assert_close(final.mean(0), torch.full((2,), MEAN, dtype=final.dtype), atol=0.02, rtol=0)
    torch.testing.assert_close(final.std(0), torch.full((2,), STD, dtype=final.dtype), atol=0.02, rtol=0)


def test_the_mean_of_what_the_head_draws_is_the_velocity_of_the_flow() -> None:
    network, x, t = Gaussian(), torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.tensor([0.4])
    one = sampler.Transition(steps=1, head=Euler(steps=64))
    bound, num = field(network), 40_000
    solver = one.build(STRAIGHT)
    assert isinstance(solver, sampler.Transition)
    tokens = bound.tokens(x.expand(num, -1), t.expand(num))
    found = solver._draw(bound, tokens, noise(num)).final
    mean, variance = network.posterior(x, t, None)
    torch.testing.assert_close(found.mean(0, keepdim=True), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(found.var(0, keepdim=True), variance, atol=0.03, rtol=0)
    torch.testing.assert_close(bound(x, t), mean)


def test_many_transitions_follow_the_mean_velocity() -> None:
    """The noises of steps average out: the distance to Euler's method falls as the root of their number."""
    x_0 = noise(400)
    distances = []
    for steps in (16, 64, 256):
        ends = [
            drawn(config, x_0).final
            for config in (Euler(steps=steps), sampler.Transition(steps=steps, head=Euler(steps=16)))
        ]
        distances.append(float((ends[0] - ends[1]).square().mean().sqrt()))
    assert distances[2] < 0.1
    for before, after in pairwise(distances):
        assert 1.6 < before / after < 2.5


@pytest.mark.parametrize("head", [Euler(steps=3), Heun(steps=4), Dopri5(rtol=1e-3, atol=1e-3)])
def test_calls_are_counted_by_part_and_known_beforehand(head: Any) -> None:
    config, network = sampler.Transition(steps=5, head=head), Gaussian()
    made = drawn(config, noise(3), network).calls
    assert made == {"network": network.calls.count(Tokens), "head": network.calls.count(FromTokens)}
    known = config.calls()
    assert made == known or (known is None and head.kind == "dopri5")
    fewer = config.with_evaluations(2)
    assert fewer is not None
    assert (fewer.steps, fewer.head) == (2, head)


def test_what_is_drawn_for_an_example_is_a_function_of_its_key() -> None:
    config, x_0 = sampler.Transition(steps=3), noise(6)
    solver, bound, grid = config.build(STRAIGHT), field(Gaussian()), config.grid()
    every = solver.sample(bound, x_0, grid, keys=keys(6)).final
    some = solver.sample(bound, x_0[[4, 1]], grid, keys=keys(6)[[4, 1]]).final
    assert torch.equal(some, every[[4, 1]])
    assert not torch.equal(solver.sample(bound, x_0, grid, keys=keys(6, seed=1)).final, every)
    with pytest.raises(ValueError, match="keys: None, and this sampler draws noise"):
        solver.sample(bound, x_0, grid)


def test_times_are_those_of_a_grid() -> None:
    config = sampler.Transition(times=(0.0, 0.25, 1.0))
    assert config.steps == 2
    assert torch.equal(drawn(config, noise(2)).times, torch.tensor([0.0, 0.25, 1.0]))


def test_guidance_acts_on_the_velocity_of_the_head() -> None:
    label = torch.tensor([2, 3])
    x, y, s = noise(2, seed=1), noise(2, seed=2), torch.tensor([[0.3], [0.8]])
    t = torch.tensor([0.2, 0.6])
    bound = {scale: field(Gaussian(), Condition(label), scale) for scale in (0.0, 1.0, 2.5)}
    alone, nothing, guided = (bound[scale].head_velocity(y, s, bound[scale].tokens(x, t)) for scale in (1.0, 0.0, 2.5))
    torch.testing.assert_close(guided, nothing + 2.5 * (alone - nothing))
    plain = field(Gaussian(), Condition(label))
    assert torch.equal(alone, plain.head_velocity(y, s, plain.tokens(x, t)))
    torch.testing.assert_close(bound[2.5](x, t), bound[0.0](x, t) + 2.5 * (bound[1.0](x, t) - bound[0.0](x, t)))


def test_guidance_asks_the_trunk_once_a_step() -> None:
    network = Gaussian()
    config = sampler.Transition(steps=2, head=Euler(steps=3))
    drawn(config, noise(2), network, condition=Condition(torch.tensor([1, 2])), guidance=1.5)
    assert network.calls == 2 * [Tokens, *3 * [FromTokens]]


def test_the_trunk_is_called_once_for_all_draws() -> None:
    network = Gaussian()
    losses = transition(draws=4).loss(network, points(), UNCONDITIONAL)
    assert network.calls == [HeadVelocities, Tokens]
    assert losses.values.shape == (6, 4, 2)
    assert losses.per_example.shape == (6,)


def test_the_loss_is_a_function_of_its_keys() -> None:
    objective, sample = transition(), points()
    first, again = (objective.loss(Gaussian(), sample, UNCONDITIONAL).values for _ in range(2))
    other = objective.loss(Gaussian(), sample._replace(keys=keys(6, seed=1)), UNCONDITIONAL).values
    assert torch.equal(first, again)
    assert not (first == other).any()
    assert len(first.flatten().unique()) == first.numel()
    order = torch.tensor([3, 0, 5])
    given = {name: part for name, part in sample._asdict().items() if part is not None}
    fewer = PathSample(**{name: part[order] for name, part in given.items()})
    torch.testing.assert_close(objective.loss(Gaussian(), fewer, UNCONDITIONAL).values, first[order])


def test_the_exact_head_has_the_least_loss() -> None:
    """E[(Y - Y_0 - g)^2] = Var(Y - Y_0 | Y_s, x_t) + (g - E)^2: a shift of g by d adds d^2."""
    x_1 = MEAN + STD * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(2))
    x_0 = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(3))
    t = torch.rand(20_000, generator=torch.Generator().manual_seed(4))
    sample = STRAIGHT.sample(Pairs(x_0, x_1), t, generator=torch.Generator())._replace(keys=keys(20_000))
    network = Gaussian()
    best = transition().loss(network, sample, UNCONDITIONAL).mean()
    for shift in (-0.3, 0.3):
        moved = transition().loss(lambda *asked, shift=shift: network(*asked) + shift, sample, UNCONDITIONAL).mean()
        assert float(moved - best) == pytest.approx(shift**2, abs=0.01)


def test_times_of_tokens_reach_the_values_of_their_patches() -> None:
    s = torch.arange(6.0)[None] / 6
    grid = PatchGrid(rows=2, columns=3, size=4)
    whole = by_value(s, (5, 8, 12)).expand(1, 5, 8, 12)
    assert torch.equal(grid.patches(whole), s[..., None].expand(1, 6, 5 * 16))
    assert torch.equal(by_value(s[:, :1], (7,)), s[:, :1])


def test_each_token_has_a_time_of_its_own() -> None:
    asked: list[HeadVelocities] = []

    def network(_x: Tensor, _t: Tensor, _condition: Condition, question: HeadVelocities) -> Tensor:
        asked.append(question)
        return torch.zeros_like(question.y)

    sample = points(shape=(1, 4, 4))
    transition(tokens=4).loss(network, sample, UNCONDITIONAL)
    (question,) = asked
    assert question.s.shape == (4, 6, 4)
    assert len(question.s.unique()) == question.s.numel()
    assert bool(((question.s >= 0) & (question.s < 1)).all())
    s = by_value(question.s, (1, 4, 4))
    noises = (question.y - s * sample.velocity) / (1 - s)
    assert abs(float(noises.mean())) < 0.2
    assert float(noises.std()) == pytest.approx(1, abs=0.15)
