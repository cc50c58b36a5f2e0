"""The process of a chain of states, its loss, and the sampler that draws it token by token."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.seeds import fold_in
from tests.each import each
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL, Condition, objective, path, sampler, target
from trainer.flow.chain import Chain
from trainer.flow.coupling import Pairs
from trainer.flow.field import NetworkField
from trainer.flow.path import PathSample
from trainer.flow.question import NextStates, Past
from trainer.flow.sampler import TokenField, VelocityField
from trainer.model.build import build_model
from trainer.sampling.flow import FlowParts

VELOCITY = target.Velocity().build(path.Linear())
LINEAR, INDEPENDENT = (objective.CausalTransition(process=process) for process in ("linear", "independent"))
COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
POINTS, TRANSITIONS = 40_000, 3
histories = pytest.mark.parametrize("history", ["last", "full"])
processes = each("config", [LINEAR, INDEPENDENT], ids=lambda one: one.process)


def keys(size: int) -> Tensor:
    return fold_in(torch.tensor(7), torch.arange(size))


def states_by_number(history: Any, config: objective.CausalTransition) -> dict[int, tuple[Tensor, Tensor]]:
    """Pairs of a state and the next one, by the number of the transition between them."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(POINTS, 2, dtype=torch.float64, generator=generator)
    x_1 = torch.randn(POINTS, 2, dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(COVARIANCE).T
    chained = config.build(objective.ObjectiveInputs(VELOCITY, chain=Chain(TRANSITIONS, history, (2,))))
    states, t = chained.states(x_0, x_1, keys(POINTS))
    if history == "full":
        assert bool((t == 0).all())
        assert torch.equal(states[-1], x_1)
        return {number: (states[number], states[number + 1]) for number in range(TRANSITIONS)}
    numbers = (TRANSITIONS * t).round().long()
    assert set(numbers.tolist()) == set(range(TRANSITIONS))
    return {number: (states[0][numbers == number], states[1][numbers == number]) for number in range(TRANSITIONS)}


def covariance(x: Tensor, y: Tensor) -> Tensor:
    return (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)


@each("history", ["last", "full"])
@processes
def test_both_processes_have_the_same_marginals_and_differ_in_the_shared_noise(history: str, config: Any) -> None:
    """Cov(X_t, X_(t+1)) = t (t+1) / T^2 Cov(x_1), and with one noise for all states (1 - t/T)(1 - (t+1)/T) I more."""
    for number, (one, following) in states_by_number(history, config).items():
        now, later = number / TRANSITIONS, (number + 1) / TRANSITIONS
        shared = (1 - now) * (1 - later) * torch.eye(2).double() if config is LINEAR else 0.0
        tolerance = 5 * 2.0 / math.sqrt(len(one))  # of an entry whose factors have variances up to 2
        for found, expected in (
            (covariance(one, one), (1 - now) ** 2 * torch.eye(2).double() + now**2 * COVARIANCE),
            (covariance(following, following), (1 - later) ** 2 * torch.eye(2).double() + later**2 * COVARIANCE),
            (covariance(one, following), now * later * COVARIANCE + shared),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        assert float(one.mean(0).abs().max()) < tolerance


def points(size: int = 6, shape: tuple[int, ...] = (1, 4, 4)) -> PathSample:
    x_0, x_1 = torch.randn(2, size, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sample = path.Linear(0.0).sample(Pairs(x_0, x_1), torch.full((size,), 0.5).double(), generator=torch.Generator())
    return sample._replace(keys=keys(size))


def causal(history: Any, config: objective.CausalTransition = INDEPENDENT) -> objective.CausalTransition:
    return config.build(objective.ObjectiveInputs(VELOCITY, chain=Chain(TRANSITIONS, history, (1, 4, 4), patch_size=2)))


@each("history", ["last", "full"])
@processes
def test_a_head_that_knows_the_next_state_has_no_error(history: str, config: Any) -> None:
    """From y_s = (1 - s) y_0 + s Y the velocity Y - y_0 is (Y - y_s) / (1 - s); each token has a time of its own."""
    learned, asked = causal(history, config), []

    def knowing(_x: Tensor, _t: Tensor, _condition: Condition, question: NextStates) -> Tensor:
        asked.append(question)
        s = learned.chain.states(question.s[..., None].expand(*question.s.shape, 4))
        return (question.following - question.y) / (1 - s)

    losses = learned.loss(knowing, points(), UNCONDITIONAL)
    assert losses.per_example.shape == (6,)
    torch.testing.assert_close(losses.per_example, torch.zeros(6).double(), rtol=0, atol=1e-9)
    (question,) = asked
    assert question.s.shape == (4, learned.chain.read_at_once, 6, 4)
    assert len(question.s.unique()) == question.s.numel()


@histories
def test_a_loss_is_a_function_of_its_keys(history: str) -> None:
    learned = causal(history)

    def guess(x: Tensor, _t: Tensor, _condition: Condition, question: NextStates) -> Tensor:
        return torch.tanh(question.y) + x

    def losses(sample: PathSample) -> Tensor:
        torch.manual_seed(int(torch.randint(99, ())))
        return learned.loss(guess, sample, UNCONDITIONAL).per_example

    whole, order = points(), torch.tensor([4, 0, 3])
    some = whole._replace(x_0=whole.x_0[order], x_1=whole.x_1[order], keys=keys(6)[order])
    assert torch.equal(losses(whole), losses(whole))
    torch.testing.assert_close(losses(some), losses(whole)[order], rtol=1e-12, atol=0)
    assert not torch.equal(losses(whole._replace(keys=keys(6) + 1)), losses(whole))


class Autoregression(TokenField):
    """Token i of a state is normal around the half of the token before it, with deviation 0.3; exactly."""

    chain = Chain(2, "last", (3,))

    def next_features(self, tokens: Tensor, t: Tensor, past: Past) -> Tensor:  # noqa: ARG002
        past.length += 1
        return tokens[:, -1] / 2 if past.length > 1 else torch.zeros_like(tokens[:, -1])

    def of_token(self, features: Tensor, /) -> VelocityField:
        def velocity(y: Tensor, s: Tensor) -> Tensor:
            s = s[:, None]
            slope = (s * 0.3**2 - (1 - s)) / ((1 - s) ** 2 + s**2 * 0.3**2)
            return features + slope * (y - s * features)

        return velocity


def test_an_autoregression_is_drawn_exactly() -> None:
    """Against the covariance A A' 0.09 of x = A 0.3 z, where A is lower triangular with powers of a half."""
    drawn_by = sampler.CausalTransition(head=sampler.Heun(steps=40)).build(path.Affine(path.linear))
    x_0 = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trajectory = drawn_by.sample(Autoregression(), x_0, torch.tensor([0.0, 1.0]), keys=keys(len(x_0)))
    powers = torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0.25, 0.5, 1]], dtype=torch.float64)
    for states in trajectory.x[1:]:
        torch.testing.assert_close(covariance(states, states), 0.09 * powers @ powers.T, rtol=0, atol=5e-3)
    assert float(covariance(trajectory.x[1], trajectory.x[2]).abs().max()) < 5e-3, "each has noise of its own"
    torch.testing.assert_close(trajectory.times, torch.tensor([0.0, 0.5, 1.0]))


def run_of(history: str, **sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {
                "kind": "causal_transition",
                "history": history,
                "hidden": 16,
                "num_layers": 1,
                "patch_size": 4,
                "head": {"hidden": 8},
            },
            "optim": {"steps": 1, "global_batch": 4},
            "sample": {"sampler": {"kind": "causal_transition", "head": {"kind": "heun", "steps": 3}}},
            **sections,
        }
    )


def field_of(config: RunConfig, condition: Condition, guidance: float = 1.0) -> Any:
    network = build_model(config, plan_layout(config, 1)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return FlowParts(config).field(network, condition, guidance)


@histories
@torch.no_grad()
def test_an_example_is_a_function_of_its_key_and_costs_what_the_settings_say(history: str) -> None:
    config = run_of(history)
    chosen = config.sample.sampler  # pyright: ignore[reportAttributeAccessIssue]  of images
    drawn_by, grid = chosen.build(path.Affine(path.linear)), chosen.grid()
    x_0, labels = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    whole = drawn_by.sample(field_of(config, Condition(labels)), x_0, grid, keys=keys(5))
    part = drawn_by.sample(field_of(config, Condition(labels[3:])), x_0[3:], grid, keys=keys(5)[3:])
    torch.testing.assert_close(part.x, whole.x[:, 3:], rtol=1e-4, atol=1e-5)
    other = drawn_by.sample(field_of(config, Condition(labels)), x_0, grid, keys=keys(5) + 1)
    assert not torch.equal(other.final, whole.final)
    assert whole.x.shape == (3, 5, 1, 8, 8)
    assert whole.calls == chosen.calls() == {"network": 8, "head": 48}
    assert chosen.with_evaluations(8) == chosen
    assert chosen.with_evaluations(4) is None
    assert sampler.CausalTransition().calls() is None, "the sampler alone does not know the tokens"


@torch.no_grad()
def test_guidance_acts_on_the_velocity_of_the_head() -> None:
    config, condition = run_of("last"), Condition(torch.arange(3))
    generator = torch.Generator().manual_seed(0)
    tokens, y, s = torch.randn(3, 4, 16, generator=generator), torch.randn(3, 16, generator=generator), torch.rand(3)
    found = []
    for guidance in (0.0, 1.0, 2.5):
        field = field_of(config, condition, guidance)
        found.append(field.of_token(field.next_features(tokens, torch.zeros(3), Past()))(y, s))
    nothing, whole, guided = found
    assert float((whole - nothing).abs().max()) > 1e-3
    torch.testing.assert_close(guided, nothing + 2.5 * (whole - nothing), rtol=1e-4, atol=1e-5)


def test_what_follows_a_velocity_is_refused_by_name() -> None:
    config = run_of("full")
    field, x = field_of(config, UNCONDITIONAL), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"^sampler: it asks for the velocity .* use sampler causal_transition"):
        sampler.Euler().sample(field, x, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"^sampler: it asks for the data or noise "):
        field.estimate(x, torch.zeros(2), "data", "noise")
    drawn_by = config.sample.sampler.build(path.Affine(path.linear))  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"^keys: None"):
        drawn_by.sample(field, x, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"^times: a chain leads from source \(0\) to data \(1\), and these from 0.5"):
        drawn_by.sample(field, x, torch.tensor([0.5, 1.0]), keys=keys(2))
    velocity = NetworkField(lambda x, _: x, target.Velocity().build(path.Affine(path.linear)))
    with pytest.raises(ValueError, match=r"^field: it draws no tokens"):
        drawn_by.sample(velocity, x, torch.tensor([0.0, 1.0]), keys=keys(2))
