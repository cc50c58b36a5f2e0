"""Adjoint matching against closed forms: the lean adjoint, the loss, and what keeps a run from starting."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.each import each
from trainer.config.file import resolve
from trainer.config.rules.cautions import of_guidance
from trainer.config.rules.objection import refuse
from trainer.config.rules.tasks import of_adjoint_matching, of_tilted
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig
from trainer.data import Batch
from trainer.flow import UNCONDITIONAL, Condition, path, sampler, target
from trainer.flow.cost import RunningCost
from trainer.flow.field import NetworkField
from trainer.flow.reward import Reward
from trainer.task.policy.adjoint_matching import AdjointMatching, LeanAdjoint, Nodes, lean_adjoint
from trainer.training.task import TrainedNetworks

MEAN, STD, SLOPE = torch.tensor([1.0, -0.5]), 0.6, torch.tensor([1.5, -1.0])
LINEAR, FLOOR = path.LinearConfig().build(), 1e-3
HERE = __name__


class Sloping(Reward):
    """A reward that is linear in a point."""

    def __call__(self, examples: Tensor, _condition: Condition, /) -> Tensor:
        """Its scalar product with the slope."""
        return examples @ SLOPE.to(examples)


class Indifferent(Sloping):
    """A reward of which nothing is known but its values."""

    differentiable = False


class Bowl(RunningCost):
    """A cost that is quadratic in the state, and grows with time."""

    def __call__(self, x: Tensor, t: Tensor, _condition: Condition, /) -> Tensor:
        """t |x|^2 / 2."""
        return t * x.square().sum(1) / 2


class Flat(RunningCost):
    """A cost that does not depend on the state."""

    def __call__(self, x: Tensor, _t: Tensor, _condition: Condition, /) -> Tensor:
        """1."""
        return x.new_ones(len(x))


def slope_at(t: Tensor) -> Tensor:
    """dv/dx of the flow from N(0, I) to N(MEAN, STD^2 I)."""
    return (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + (t * STD) ** 2)


def gaussian(x: Tensor, t: Tensor, *_: Any) -> Tensor:
    """Its velocity."""
    t = t[:, None].to(x.dtype)
    return MEAN.to(x) + slope_at(t) * (x - t * MEAN.to(x))


def curved(x: Tensor, t: Tensor, *_: Any) -> Tensor:
    """A velocity without symmetry."""
    turned = torch.stack([x[:, 1].sin() + x[:, 0], (x[:, 0] * x[:, 1]).cos()], dim=1)
    return turned * (1 + t[:, None].to(x.dtype))


class Beside(nn.Module):
    """The Gaussian flow, and a linear layer of the state and the time that is added to it."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.added = nn.Linear(3, 2)
        with torch.no_grad():
            for parameter in self.added.parameters():
                generator = torch.Generator().manual_seed(seed or 0)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.0 if seed is None else 0.3))

    def forward(self, x: Tensor, t: Tensor, _condition: Condition) -> Tensor:
        return gaussian(x, t) + self.added(torch.cat([x, t[:, None]], dim=1))


def configured(sections: dict[str, Any] | None = None, **task: Any) -> RunConfig:
    settings = {"kind": "adjoint_matching", "reward": {"class": f"{HERE}:Sloping"}, "base": "unused", **task}
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", "name": "eight_gaussians"},
        "optim": {"steps": 1, "global_batch": 1},
        "task": settings,
        **(sections or {}),
    }
    return RunConfig.model_validate(resolve(document).document)


def task_of(**task: Any) -> AdjointMatching:
    config = configured(**task)
    assert isinstance(config.task, AdjointMatchingConfig)
    named = config.task.model_copy(update={"base": None})
    return AdjointMatching(config.model_copy(update={"task": named}), base=gaussian)


def collected(task: AdjointMatching, network: nn.Module, *sizes: int) -> list[Nodes]:
    batches = [Batch(torch.zeros(size, 2), None, torch.arange(size)) for size in sizes]
    generators = [torch.Generator().manual_seed(number) for number in range(len(sizes))]
    return task.collect(task.draw(batches, generators), TrainedNetworks(network))  # type: ignore[arg-type]


def followed(
    velocity: Callable[..., Tensor], x: Tensor, terminal: Tensor, cost: RunningCost | None = None, weight: float = 1.0
) -> LeanAdjoint:
    times = torch.linspace(0, 1, len(x), dtype=torch.float64)
    field = NetworkField(velocity, target.Velocity().build(LINEAR))
    return lean_adjoint(
        field,
        sampler.Memoryless(diffusion=sampler.MemorylessDiffusion(floor=FLOOR)),
        x,
        times,
        terminal,
        UNCONDITIONAL,
        cost,
        weight=weight,
    )


def random_states(steps: int, size: int = 3) -> Tensor:
    return torch.randn(steps + 1, size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_adjoint_of_a_linear_drift_is_its_closed_form() -> None:
    """da/dt = -(2 dv/dx - kappa) a is solved by a(1) exp of the integral of 2 dv/dx - kappa over the time that is left.

    With floor 0 the integral of kappa is -log t, and that of 2 dv/dx is log(STD^2 / V(t)), V = (1 - t)^2 + t^2 STD^2.
    """
    steps, terminal = 300, -SLOPE.double().expand(3, 2)
    found = followed(gaussian, random_states(steps), terminal).adjoint
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1]
    factor = t * STD**2 / ((1 - t) ** 2 + (t * STD) ** 2)
    late = t > 0.2  # before, floor and steps count
    torch.testing.assert_close(found[late], (factor[:, None, None] * terminal)[late], rtol=2e-2, atol=0)


def test_the_ordinary_equation_under_the_control_reaches_the_closed_tilt() -> None:
    """N(m, s^2) times exp(b x) is N(m + s^2 b, s^2): the control - sigma^2 / 2 a(t) does not depend on the state."""
    steps = 200
    found = followed(gaussian, random_states(steps, 1), -SLOPE.double().expand(1, 2)).adjoint[:, 0]
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    control = -((1 - times + FLOOR) / (times + FLOOR))[1:-1, None] * found
    x_0 = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)

    def tilted(x: Tensor, t: Tensor) -> Tensor:
        return gaussian(x, t) + control[(t[0] * steps).round().long().clamp(1, steps - 1) - 1]

    field = NetworkField(tilted, target.Velocity().build(LINEAR))
    middle, off = sampler.Heun().sample(field, x_0, times).final
    torch.testing.assert_close(middle, (MEAN + STD**2 * SLOPE).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(off - middle, torch.full((2,), STD, dtype=torch.float64), rtol=0.01, atol=0)


def test_a_step_is_that_of_finite_differences() -> None:
    """a_i - a_{i+1} = h d/dx of (2 v - kappa x) . a_{i+1} + weight f at the state of t_{i+1}, written out here."""
    steps, weight, nudge = 5, 0.7, 1e-6
    x, terminal = random_states(steps), random_states(1)[0]
    found = followed(curved, x, terminal, Bowl(), weight)
    adjoints = torch.cat([found.adjoint, terminal[None]])
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    for later in range(steps, 1, -1):
        t, after = times[later], adjoints[later - 1]

        def owed(state: Tensor, t: Tensor = t, after: Tensor = after) -> Tensor:
            drift = 2 * curved(state, t.clamp(1e-3, 1 - 1e-3).expand(3)) - (1 + FLOOR) / (t + FLOOR) * state
            return (drift * after).sum(1) + weight * t * state.square().sum(1) / 2

        shifts = nudge * torch.eye(2, dtype=torch.float64)
        slope = torch.stack([(owed(x[later] + by) - owed(x[later] - by)) / (2 * nudge) for by in shifts], dim=1)
        torch.testing.assert_close(adjoints[later - 2] - after, slope / steps, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.velocity[2], curved(x[3], times[3].expand(3)), rtol=1e-12, atol=0)
    paid = sum(times[number] * x[number].square().sum(1) / 2 for number in range(1, steps + 1)) / steps
    torch.testing.assert_close(found.cost, paid)


def test_a_network_that_is_the_base_has_the_loss_of_the_adjoint_alone() -> None:
    task, network = task_of(steps=8, nodes=7), Beside()
    (nodes,) = collected(task, network, 5)
    sigma_squared = 2 * (1 - nodes.t + FLOOR) / (nodes.t + FLOOR)
    expected = (sigma_squared[:, None] * nodes.adjoint.square()).mean()
    torch.testing.assert_close(task.loss(network, nodes).mean(), expected, rtol=1e-5, atol=0)
    assert float(nodes.terms["path_kl"]) == pytest.approx(0, abs=1e-10)
    assert sorted((8 * nodes.t).round().long().tolist()) == [1, 2, 3, 4, 5, 6, 7], "neither 0 nor 1"


def test_the_loss_is_zero_at_the_optimal_control() -> None:
    """v = v_base - sigma^2 / 2 a, put into the network as a table of the node."""
    task = task_of(steps=8, nodes=7)
    (nodes,) = collected(task, Beside(), 4)
    control = (1 - nodes.t + FLOOR) / (nodes.t + FLOOR)
    best = nodes.velocity - control[:, None] * nodes.adjoint
    loss = task.loss(lambda *_: best.flatten(0, 1), nodes)
    assert float(loss.mean()) == pytest.approx(0, abs=1e-8)


def test_the_path_divergence_is_the_integral_of_the_control() -> None:
    """A network that adds a constant c to the velocity has a control 2 c / sigma, whatever the path."""
    task, network = task_of(steps=8, nodes=7), Beside()
    with torch.no_grad():
        network.added.bias.copy_(torch.tensor([0.3, -0.4]))
    (nodes,) = collected(task, network, 4)
    t = torch.arange(1, 8) / 8
    expected = float((4 * 0.25 / (2 * (1 - t + FLOOR) / (t + FLOOR)) / 2 / 8).sum())
    assert float(nodes.terms["path_kl"]) == pytest.approx(expected, rel=1e-4)


def test_passes_share_the_nodes_of_one_pass() -> None:
    network = Beside(seed=2)
    one, cut = task_of(steps=9, nodes=6), task_of(steps=9, nodes=6, at_once=2)
    (whole,), passes = collected(one, network, 5), collected(cut, network, 5)
    assert len(passes) == cut.passes == 3
    for name in ("x", "velocity", "adjoint"):
        assert torch.equal(torch.cat([getattr(part, name) for part in passes], dim=1), getattr(whole, name))
    losses = [cut.loss(network, part).mean() for part in passes]
    torch.testing.assert_close(torch.stack(losses).mean(), one.loss(network, whole).mean())


def test_a_path_is_a_function_of_its_key_alone() -> None:
    """In whatever micro batch it is drawn, whatever else is drawn beside it."""
    task, network = task_of(steps=6, nodes=5), Beside(seed=3)
    one = task.draw_one(Batch(torch.zeros(4, 2), None, torch.arange(4)), torch.Generator().manual_seed(0))
    halves = [replace(one, keys=one.keys[part]) for part in (slice(0, 1), slice(1, 4))]
    networks = TrainedNetworks(network)  # type: ignore[arg-type]
    (whole,), parts = task.collect([one], networks), task.collect(halves, networks)
    for name in ("x", "velocity", "adjoint"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), rtol=0, atol=1e-5)


def test_calls_are_counted_over_cycles_and_resumed() -> None:
    task, network = task_of(steps=6, nodes=4, guidance=1.0), Beside()
    collected(task, network, 3)
    first, second = collected(task, network, 3, 2)
    assert first.terms["reward_calls"] == second.terms["reward_calls"] == 8
    assert first.terms["network_calls"] == 8 * (6 + 6 + 4)
    resumed = task_of(steps=6, nodes=4)
    resumed.load(task.state())
    assert collected(resumed, network, 1)[0].terms["reward_calls"] == 9
    calls = configured(steps=6, nodes=4, at_once=2, guidance=2.0).task.calls or ()
    assert [(one.phase, one.count, one.rows, one.gradient, one.reference) for one in calls] == [
        ("rollout", 6, 2, False, False),
        ("rollout", 6, 2, True, True),
        ("learn", 1, 4, True, False),
    ]


def test_held_out_paths_tell_reward_cost_and_divergence() -> None:
    task = task_of(steps=6, nodes=4, cost={"class": f"{HERE}:Bowl"})
    (one,) = task.draw([Batch(torch.zeros(5, 2), None, torch.arange(5))], [torch.Generator().manual_seed(0)])
    with torch.no_grad():
        figures = task.examine(Beside(seed=1), one)
    assert {name: tuple(values.shape) for name, values in figures.items()} == dict.fromkeys(
        ("held_out_reward", "held_out_cost", "held_out_path_kl"), (5,)
    )


def test_gradients_reach_the_network_in_the_loss_alone() -> None:
    task, network = task_of(steps=6, nodes=4), Beside(seed=1)
    (nodes,) = collected(task, network, 3)
    assert not any(value.requires_grad for value in (nodes.x, nodes.velocity, nodes.adjoint))
    assert all(parameter.grad is None for parameter in network.parameters())
    task.loss(network, nodes).mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_cost_without_a_gradient_ends_the_run_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"^cost: Flat does not depend on the state"):
        collected(task_of(steps=6, nodes=4, cost={"class": f"{HERE}:Flat"}), Beside(), 2)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"reward": None}, r"reward: null, and cost is null, too.*; give one"),
        ({"steps": 5, "nodes": 5}, r"nodes: 5 are more than the 4 times between 5 steps; use 4"),
        ({"nodes": 4, "at_once": 3}, r"at_once: 3 does not divide nodes 4; use a divisor"),
    ],
)
def test_settings_that_mean_nothing_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configured(**task)


@each(
    ("sections", "task", "message"),
    [
        ({}, {"base": None}, r"^task.base: null, .*; name a trained run"),
        ({}, {"reward": {"class": f"{HERE}:Indifferent"}}, r"^task.reward: .*Indifferent says differentiable = False"),
        ({"flow": {"path": {"kind": "trigonometric"}}}, {}, r"^flow.path.kind: trigonometric has no memoryless steps"),
        ({"flow": {"path": {"sigma_min": 0.1}}}, {}, r"^flow.path.kind: linear .*sigma_min 0"),
        ({"flow": {"coupling": {"kind": "minibatch_ot"}}}, {}, r"^flow.coupling.kind: minibatch_ot, .*independent"),
        ({}, {"cost": {"kind": "attention", "subjects": [[0], [1]]}}, r"^task.cost.kind: attention is that of a dit"),
    ],
)
def test_a_run_that_cannot_be_tilted_is_refused(sections: dict[str, Any], task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        refuse(of_adjoint_matching(configured(sections, **task)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("base", "task", "message"),
    [
        ({"data": {"kind": "toy", "classes": True}}, {}, r"has classes \d+, and this run 0; leave the sections out"),
        ({"flow": {"target": {"kind": "data"}}}, {}, r"has flow.target \{'kind': 'data'\}"),
        ({"model": {"kind": "autoencoder"}, "data": {"kind": "digits"}}, {}, r"follows no flow \(autoencoder\)"),
    ],
)
def test_a_base_of_another_flow_is_refused(base: dict[str, Any], task: dict[str, Any], message: str) -> None:
    sections = {"model": {"kind": "mlp"}, "data": {"kind": "toy"}, **base}
    document = {"run": {"dir": "base"}, "optim": {"steps": 1, "global_batch": 1}, **sections}
    other = RunConfig.model_validate(resolve(document).document)
    with pytest.raises(ValueError, match=rf"^task.base.run: unused {message}") as refused:
        refuse(of_tilted(configured(**task), other, 1))
    assert "\n" not in str(refused.value)


def test_samples_of_another_guidance_are_remarked_on() -> None:
    classes = {"data": {"kind": "toy", "classes": True}}
    assert not any(of_guidance(configured(classes)))
    guided = {**classes, "sample": {"guidance": 2.0}}
    ((field, problem, _),) = of_guidance(configured(guided))
    assert f"{field}: {problem}".startswith("sample.guidance: 2 draws from another flow")
    assert not any(of_guidance(configured(guided, guidance=2.0)))
    assert not any(of_guidance(configured({"sample": {"guidance": 2.0}}))), "there are no classes"
