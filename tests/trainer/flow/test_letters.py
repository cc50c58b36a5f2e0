"""Flows over letters: the path with Gumbel noise, logits as a prediction, their loss, and the states of sequences."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from tests.draws import generator
from trainer.flow import UNCONDITIONAL, objective, path, sampler, target
from trainer.flow.coupling import Pairs
from trainer.flow.letters import Letters, centred, one_hot_of
from trainer.flow.path.gumbel_softmax import gumbel

V, L = 5, 3
ANNEALED, CONSTANT = path.GumbelSoftmaxConfig(), path.GumbelSoftmaxConfig(signal=path.Constant())
signals = pytest.mark.parametrize("config", [ANNEALED, CONSTANT], ids=["annealed", "constant"])
along = pytest.mark.parametrize(
    "config", [ANNEALED, CONSTANT, path.LinearConfig()], ids=["annealed", "constant", "linear"]
)


def letters(num: int = 7) -> Tensor:
    """One-hot sequences [num, V, 1, L]."""
    numbers = torch.randint(V, (num, 1, L), generator=generator(1))
    return torch.nn.functional.one_hot(numbers, V).movedim(-1, 1).double()


def pairs(num: int = 7) -> Pairs:
    return Pairs(torch.randn(num, V, 1, L, dtype=torch.float64, generator=generator(2)), centred(letters(num)))


def logits_of(one_hot: Tensor) -> Tensor:
    """Logits of which the softmax is, to rounding, one-hot."""
    return 1e3 * one_hot


def test_a_normal_draw_becomes_a_gumbel_draw_of_the_same_rank():
    normal = torch.randn(4000, 2, generator=generator())
    drawn = -(-torch.special.log_ndtr(normal)).log()
    assert stats.kstest(drawn[:, 0].numpy(), "gumbel_r").pvalue > 0.01
    torch.testing.assert_close(gumbel(normal), drawn - drawn.mean(1, keepdim=True))
    assert bool(gumbel(torch.tensor([[-9.0, 9.0]])).isfinite().all())


@signals
def test_a_state_is_the_logarithm_of_the_published_one_times_its_temperature(config):
    """x = softmax((a e_k + g / beta) / tau) of the paper, at any temperature."""
    t, given, signal = torch.linspace(0, 1, 7).double(), pairs(), config.signal
    sample = config.build().sample(given, t, generator=generator())
    weight = t.view(-1, 1, 1, 1) if config is ANNEALED else 1.0
    tau = (10 * (-3 * t).exp()).view(-1, 1, 1, 1)
    published = ((weight * letters() + gumbel(given.x_0) / signal.beta) / tau).softmax(1)
    state = signal.beta * tau * published.log()
    torch.testing.assert_close(sample.x_t, state - state.mean(1, keepdim=True))
    assert float(sample.x_t.sum(1).abs().max()) < 1e-12


def test_the_annealed_velocity_is_the_derivative_of_the_path():
    t = torch.full((7,), 0.4, dtype=torch.float64)
    before, now, after = (
        ANNEALED.build().sample(pairs(), t + step, generator=generator()) for step in (-1e-4, 0, 1e-4)
    )
    torch.testing.assert_close((after.x_t - before.x_t) / 2e-4, now.velocity, rtol=1e-6, atol=1e-6)


def test_the_constant_velocity_is_that_of_the_paper_without_the_noise():
    """dx = rate / tau x_k (e_k - x) of the paper is dy = rate (e_k - y) in y = tau log x; states are beta y."""
    t, rate = torch.full((7,), 0.4, dtype=torch.float64), 3.0
    sample = CONSTANT.build().sample(pairs(), t, generator=generator())
    tau = 10 * math.exp(-rate * 0.4)
    y, one_hot = sample.x_t / CONSTANT.signal.beta, letters()
    x = (y / tau).softmax(1)
    published = rate / tau * (one_hot * x).sum(1, keepdim=True) * (one_hot - x)
    dy = tau * published / x - rate * y
    torch.testing.assert_close(CONSTANT.signal.beta * (dy - dy.mean(1, keepdim=True)), sample.velocity)


@along
def test_the_true_letters_give_the_velocity_of_their_pair(config):
    built, t = config.build(), torch.linspace(0.1, 0.9, 7).double()
    sample = built.sample(pairs(), t, generator=generator())
    told = target.Token().build(built)
    velocity = told.convert(logits_of(letters()), sample.x_t, t, "velocity")
    torch.testing.assert_close(velocity, sample.velocity)
    torch.testing.assert_close(told.convert(logits_of(letters()), sample.x_t, t, "data"), sample.x_1)


@signals
def test_samples_begin_where_states_have_no_letter(config):
    built, normal = config.build(), pairs().x_0
    c = built.coefficients(torch.zeros(7, dtype=torch.float64))
    assert float(c.b.abs().max()) == 0
    torch.testing.assert_close(built.start(normal), c.broadcast(normal).a * gumbel(normal))
    straight = path.LinearConfig().build()
    assert straight.start(normal) is normal


def test_the_noise_of_letters_has_no_score():
    built = ANNEALED.build()
    assert not target.Token.determines("score", built)
    assert target.Token.determines("noise", built)
    with pytest.raises(ValueError, match="path: its noise is not normal"):
        target.Token().build(built).convert(letters(), letters(), torch.ones(7), "score")


def exact(prior: Tensor, z: Tensor, t: Tensor, beta: float) -> Tensor:
    """Logits [B, V] of the letter given its state [B, V]: the ExpConcrete density of Maddison et al., 2017."""
    gain = torch.expm1(beta * t)[:, None].clamp_min(1e-30).log()
    return prior.log() - prior.numel() * torch.logaddexp((-z).logsumexp(1, keepdim=True), gain - z)


def test_the_exact_posterior_is_that_of_the_relaxed_categorical():
    prior, beta, t = torch.tensor([0.1, 0.6, 0.3]).double(), 4.0, torch.tensor([0.7]).double()
    z = centred(torch.rand(1, 3, generator=generator()).double())
    densities = torch.stack(
        [
            ExpRelaxedCategorical(torch.tensor(1.0).double(), logits=beta * t * row).log_prob(z - z.logsumexp(1))
            for row in torch.eye(3).double()
        ]
    )
    expected = (prior.log() + densities[:, 0]).softmax(0)
    torch.testing.assert_close(exact(prior, z, t, beta)[0].softmax(0), expected)


@pytest.mark.parametrize("drawn", [sampler.Euler(steps=50), sampler.Heun(steps=25), sampler.FirstOrder(steps=50)])
def test_the_exact_posterior_draws_letters_at_their_frequencies(drawn):
    num, prior = 20_000, torch.tensor([0.05, 0.5, 0.15, 0.3]).double()
    built, letters = ANNEALED.build(), target.Token()
    told = letters.build(built)

    class Exact(sampler.Field):
        def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
            return self.estimate(x, t, "velocity")[0]

        def estimate(self, x: Tensor, t: Tensor, *quantities: target.Quantity) -> tuple[Tensor, ...]:
            logits = exact(prior, x, t, 10.0)
            return tuple(told.convert(logits, x, t, quantity) for quantity in quantities)

    begun = built.start(torch.randn(num, 4, dtype=torch.float64, generator=generator()))
    found = drawn.build(built).sample(Exact(), begun, drawn.grid().double()).final
    share = one_hot_of(found).mean(0)
    divergence = float((share * (share / prior).log()).sum())
    assert divergence < 2 * 3 / (2 * num) + 2e-3  # twice the error of so many true draws


def test_the_cross_entropy_is_that_of_the_letter_at_each_place():
    built, t = ANNEALED.build(), torch.linspace(0, 1, 7).double()
    sample = built.sample(pairs(), t, generator=generator())
    minimised = objective.CrossEntropy().build(objective.ObjectiveInputs(target.Token().build(built)))
    logits = torch.randn(7, V, 1, L, generator=generator(3))
    found = minimised.loss(lambda *_: logits, sample, UNCONDITIONAL).values
    expected = -(letters() * logits.double().log_softmax(1)).sum(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_sequence_is_what_its_state_decodes_to():
    space, given = Letters(), letters().float()
    states = space.encode(given, generator=generator())
    assert float(states.sum(1).abs().max()) < 1e-6
    assert torch.equal(space.decode(states), given)
    assert torch.equal(space.shown(given, generator=generator()), given)
