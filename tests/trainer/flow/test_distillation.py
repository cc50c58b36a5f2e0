"""Objectives that distil a flow into mean velocities, against formulas in the paper's time and gradients by hand."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from netsim.foundation.run_reference import ReferenceConfig
from trainer.flow import UNCONDITIONAL, Condition, objective, path, target
from trainer.flow.condition import keyed_normal
from trainer.flow.coupling import Pairs
from trainer.flow.field import NetworkField
from trainer.flow.objective.regression import at_points
from trainer.flow.path import PathSample
from trainer.flow.sampler import Euler, Field, VelocityField

SIZE, WIDTH, STEP = 7, 3, 0.03
ANY_RUN: Any = ReferenceConfig(run="any")  # pyright: ignore[reportArgumentType]
LINEAR = path.Linear()
VELOCITY = target.Velocity().build(LINEAR)


class Smooth(nn.Module):
    """A network in float64 that is smooth in state and time and knows the class."""

    def __init__(self, seed: int, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.into = nn.Parameter(torch.randn(WIDTH + 2, 8, dtype=torch.float64, generator=generator))
        self.out = nn.Parameter(torch.randn(8, WIDTH, dtype=torch.float64, generator=generator))
        self.drop = nn.Dropout(dropout)
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Notes rows, mode and whether it keeps gradients."""
        self.calls.append((len(x_t), self.training, torch.is_grad_enabled()))
        label = torch.zeros_like(t) if condition.label is None else condition.label.to(t)
        return self.drop(torch.tanh(torch.cat([x_t, t[:, None], label[:, None]], 1) @ self.into)) @ self.out


class Wrapped(nn.Module):
    """A network as an engine holds it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Tensor:
        """Hands the call on."""
        return self.module(*inputs)


class Frozen:
    """A flow whose velocity is known; with guidance, that much of it."""

    def __init__(self, velocity: VelocityField) -> None:
        self.velocity = velocity
        self.asked: list[float] = []

    def field(self, condition: Condition, guidance: float, device: torch.device) -> Field:  # noqa: ARG002
        """The field, without gradients."""
        self.asked.append(guidance)
        return NetworkField(lambda x, t: guidance * self.velocity(x, t), target.Velocity().build(LINEAR))


def flow_of(network: nn.Module) -> Frozen:
    return Frozen(lambda x, t: network(x, t, UNCONDITIONAL))


def sample(t: Tensor | None = None) -> PathSample:
    generator = torch.Generator().manual_seed(0)
    x_0, x_1 = torch.randn(2, SIZE, WIDTH, dtype=torch.float64, generator=generator)
    t = torch.tensor([0.0, 0.1, 0.35, 0.6, 0.9, 0.98, 1.0], dtype=torch.float64) if t is None else t
    return LINEAR.sample(Pairs(x_0, x_1), t, generator=generator)._replace(keys=torch.arange(SIZE) + 5)


def matching(teacher: Frozen, **settings: Any) -> objective.VelocityDistillation:
    config = objective.VelocityDistillation(teacher=ANY_RUN, step=STEP, **settings)
    return config.build(objective.ObjectiveInputs(VELOCITY, reference=teacher))


def consistency(teacher: Frozen, **settings: Any) -> objective.ConsistencyDistillation:
    config = objective.ConsistencyDistillation(teacher=ANY_RUN, step=STEP, **settings)
    return config.build(objective.ObjectiveInputs(VELOCITY, reference=teacher))


class PaperTime:
    """Student, teacher and residual as the paper writes them: noise at s = 1, data at s = 0, phi = dx/ds."""

    def __init__(self, student: nn.Module, teacher: nn.Module, step: float = STEP) -> None:
        self.student, self.teacher, self.step = student, teacher, step

    def phi(self, x: Tensor, s: Tensor) -> Tensor:
        return -self.student(x, 1 - s, UNCONDITIONAL)

    def before(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity of the teacher, and the state a little nearer to the data, at a time of 0 or more."""
        with torch.no_grad():
            velocity = -self.teacher(x, 1 - s, UNCONDITIONAL)
        ds = s.clamp(max=self.step)
        return velocity, x - ds[:, None] * velocity, s - ds

    def derivative(self, x: Tensor, s: Tensor) -> Tensor:
        _, x_before, s_before = self.before(x, s)
        with torch.no_grad():
            return (self.phi(x, s) - self.phi(x_before, s_before)) / (s - s_before)[:, None]

    def residual(self, x: Tensor, s: Tensor) -> Tensor:
        velocity, *_ = self.before(x, s)
        return self.phi(x, s) + s[:, None] * self.derivative(x, s) - velocity


INSIDE = torch.linspace(0.0, 0.99, SIZE, dtype=torch.float64)
"""Times with a distance to the data, where the paper's formulas divide by it."""


def gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    network.zero_grad()
    loss.backward()
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_velocity_matching_is_the_residual_of_the_paper_under_a_stopped_derivative():
    student, teacher, points = Smooth(1), Smooth(2), sample(INSIDE)
    loss = matching(flow_of(teacher), weight_distribution=0).loss(student, points, UNCONDITIONAL)
    residual = PaperTime(student, teacher).residual(points.x_t, 1 - points.t)
    torch.testing.assert_close(loss.values, residual.square(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(loss.terms["velocity_residual"], residual.detach().square().mean())
    own, by_hand = (gradients(value.mean(), student) for value in (loss.values, residual.square()))
    for found, expected in zip(own, by_hand, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_residual_shrinks_with_the_step_for_the_true_mean_velocity_and_has_no_other_sign():
    """A teacher that carries N(0, 1) to N(m, s^2): x_1 - m = s x_0, so that u = (m + s (x_t - t m) / c - x_t) / (1 - t)
    with c = sqrt of the variance at t is the mean velocity from x_t to the data."""
    mean, std = 2.0, 0.5

    def variance(t: Tensor) -> Tensor:
        return (1 - t) ** 2 + t**2 * std**2

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return mean + (t * std**2 - (1 - t)) / variance(t) * (x - t * mean)

    def average(x: Tensor, t: Tensor, _condition: Condition) -> Tensor:
        left = (1 - t[:, None]).clamp(min=1e-9)
        return (mean + std * (x - t[:, None] * mean) / variance(t[:, None]).sqrt() - x) / left

    points, found = sample(torch.linspace(0, 0.9, SIZE, dtype=torch.float64)), []
    for step in (1e-2, 1e-3, 1e-4):
        config = objective.VelocityDistillation(teacher=ANY_RUN, step=step, weight_distribution=1)
        terms = (
            config.build(objective.ObjectiveInputs(VELOCITY, reference=Frozen(velocity)))
            .loss(average, points, UNCONDITIONAL)
            .terms
        )
        found.append([float(value) ** 0.5 for value in terms.values()])
    for coarse, fine in pairwise(found):
        assert all(b == pytest.approx(a / 10, rel=0.2) for a, b in zip(coarse, fine, strict=True))
    assert max(found[-1]) < 1e-3


def test_no_point_lies_beyond_the_data_and_all_is_finite_there():
    student, teacher = Smooth(1), Smooth(2)
    times: list[Tensor] = []
    student.register_forward_pre_hook(lambda _, inputs: times.append(inputs[1]))
    for built in (
        matching(flow_of(teacher)),
        matching(flow_of(teacher), normalise=True),
        consistency(flow_of(teacher)),
        consistency(flow_of(teacher), weighted=False),
    ):
        loss = built.loss(student, sample(), UNCONDITIONAL)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(loss.mean(), student))
    assert float(torch.cat(times).max()) <= 1
    at_the_data = sample(torch.ones(SIZE, dtype=torch.float64))
    loss = matching(flow_of(teacher), weight_distribution=0).loss(student, at_the_data, UNCONDITIONAL)
    instant = student(at_the_data.x_t, at_the_data.t, UNCONDITIONAL) - teacher(
        at_the_data.x_t, at_the_data.t, UNCONDITIONAL
    )
    torch.testing.assert_close(loss.values, instant.square())


def test_a_normalised_derivative_is_divided_by_its_norm():
    student, teacher, points = Smooth(1), Smooth(2), sample(INSIDE)
    loss = matching(flow_of(teacher), weight_distribution=0, normalise=True).loss(student, points, UNCONDITIONAL)
    paper, s = PaperTime(student, teacher), 1 - points.t
    derivative = paper.derivative(points.x_t, s)
    shortened = derivative / (derivative.norm(dim=1, keepdim=True) + 0.1)
    residual = paper.phi(points.x_t, s) + s[:, None] * shortened - paper.before(points.x_t, s)[0]
    torch.testing.assert_close(loss.values, residual.square())


def test_the_distribution_term_moves_one_step_samples_along_the_residual():
    """Its value is |R|^2 and its gradient 2 R du(z', 0), where R is the residual at renoised samples of the student."""
    student, teacher, points, weight = Smooth(1), Smooth(2), sample(INSIDE), 0.7
    with_it = matching(flow_of(teacher), weight_distribution=weight).loss(student, points, UNCONDITIONAL)
    without = matching(flow_of(teacher), weight_distribution=0).loss(student, points, UNCONDITIONAL)
    assert points.keys is not None
    z, other = (keyed_normal(points.x_t, points.keys, number) for number in (0, 1))
    s = 1 - points.t
    with torch.no_grad():
        drawn = z - PaperTime(student, teacher).phi(z, torch.ones_like(s))
        residual = PaperTime(student, teacher).residual((1 - s[:, None]) * drawn + s[:, None] * other, s)
    torch.testing.assert_close(with_it.values - without.values, weight * residual.square(), rtol=1e-6, atol=1e-9)
    assert float(with_it.terms["distribution_residual"]) == pytest.approx(float(residual.square().mean()))
    torch.testing.assert_close(with_it.terms["velocity_residual"], without.terms["velocity_residual"])
    by_hand = gradients((2 * residual * PaperTime(student, teacher).phi(z, torch.ones_like(s))).mean(), student)
    both, alone = gradients(with_it.mean(), student), gradients(without.mean(), student)
    for all_of_it, one, other_one in zip(both, alone, by_hand, strict=True):
        torch.testing.assert_close(all_of_it, one + weight * other_one, rtol=1e-6, atol=1e-9)


def test_consistency_is_velocity_matching_with_another_weight():
    """x_s - s phi - (x_before - (s - ds) phi_before) = -ds (r - ds D), and the weight of r - ds D is s ds."""
    student, teacher, points = Smooth(1), Smooth(2), sample(INSIDE)
    paper, s = PaperTime(student, teacher), 1 - points.t
    _, x_before, s_before = paper.before(points.x_t, s)
    ds = (s - s_before)[:, None]
    changed = (
        points.x_t
        - s[:, None] * paper.phi(points.x_t, s)
        - (x_before - s_before[:, None] * paper.phi(x_before, s_before))
    ).detach()
    matched = paper.residual(points.x_t, s) - ds * paper.derivative(points.x_t, s)
    torch.testing.assert_close(changed, -ds * matched.detach(), rtol=1e-6, atol=1e-12)
    as_defined = consistency(flow_of(teacher)).loss(student, points, UNCONDITIONAL)
    torch.testing.assert_close(as_defined.values, changed.square(), rtol=1e-6, atol=1e-12)
    weighted = gradients((s[:, None] * ds * matched.square()).mean(), student)
    for found, expected in zip(gradients(as_defined.mean(), student), weighted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    matched = paper.residual(points.x_t, s) - ds * paper.derivative(points.x_t, s)
    unweighted = gradients(matched.square().mean(), student)
    without = consistency(flow_of(teacher), weighted=False).loss(student, points, UNCONDITIONAL)
    for found, expected in zip(gradients(without.mean(), student), unweighted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_a_constant_teacher_is_a_fixed_point():
    drift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    constant = Frozen(lambda x, _: drift.expand_as(x))
    student = nn.ParameterList([drift.clone()])

    def model(x_t: Tensor, *_: Any) -> Tensor:
        return student[0].expand_as(x_t)

    for built in (matching(constant), consistency(constant)):
        loss = built.loss(model, sample(), UNCONDITIONAL)
        assert float(loss.values.abs().max()) < 1e-28
        assert all(float(gradient.abs().max()) < 1e-13 for gradient in gradients(loss.mean(), student))
        assert all(float(term) < 1e-28 for term in loss.terms.values())


def test_a_student_begins_as_its_teacher_draws():
    teacher = Smooth(2)
    student = copy.deepcopy(teacher)
    x_0, times = sample().x_0, torch.linspace(0, 1, 6, dtype=torch.float64)
    drawn = [
        Euler().sample(
            Frozen(lambda x, t, n=network: n(x, t, UNCONDITIONAL)).field(UNCONDITIONAL, 1.0, x_0.device), x_0, times
        )
        for network in (teacher, student)
    ]
    assert torch.equal(drawn[0].x, drawn[1].x)


def test_a_loss_is_a_function_of_its_input_and_each_example_of_its_own():
    student, teacher, points = Smooth(1), Smooth(2), sample(INSIDE)
    built = matching(flow_of(teacher))
    assert built.draws
    assert not matching(flow_of(teacher), weight_distribution=0).draws
    assert not consistency(flow_of(teacher)).draws
    whole = built.loss(student, points, UNCONDITIONAL).values
    assert torch.equal(built.loss(student, points, UNCONDITIONAL).values, whole)
    part = points._replace(x_t=points.x_t[4:], t=points.t[4:], keys=points.keys[4:])  # pyright: ignore[reportOptionalSubscript]
    torch.testing.assert_close(built.loss(student, part, UNCONDITIONAL).values, whole[4:], rtol=1e-12, atol=1e-12)
    other = points._replace(keys=points.keys + 100)  # pyright: ignore[reportOptionalOperand]
    assert not torch.equal(built.loss(student, other, UNCONDITIONAL).values, whole)


def test_each_term_has_its_own_guidance_and_every_point_its_label():
    teacher, points = flow_of(Smooth(2)), sample(INSIDE)
    student, labels = Smooth(1), torch.arange(SIZE)
    loss = matching(teacher, guidance=(3.0, 2.0)).loss(student, points, Condition(labels))
    assert teacher.asked == [3.0, 2.0]
    each = [
        matching(flow_of(Smooth(2)), guidance=(3.0, 2.0)).loss(
            student,
            points._replace(x_t=points.x_t[one], t=points.t[one], keys=points.keys[one]),  # pyright: ignore[reportOptionalSubscript]
            Condition(labels[one]),
        )
        for one in torch.arange(SIZE).split(1)
    ]
    torch.testing.assert_close(loss.values, torch.cat([one.values for one in each]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("built", "rows"),
    [
        (matching(flow_of(Smooth(2))), [SIZE, 4 * SIZE, 2 * SIZE]),
        (matching(flow_of(Smooth(2)), weight_distribution=0), [2 * SIZE, SIZE]),
        (consistency(flow_of(Smooth(2))), [SIZE, SIZE]),
    ],
    ids=["both terms", "velocity matching", "consistency"],
)
def test_one_pass_alone_learns_and_comes_last(built: objective.Objective, rows: list[int]):
    """Those before it are in evaluation mode, whatever holds the network, and leave modes and random numbers alone."""
    network = Smooth(1, dropout=0.5)
    network.drop.eval()  # as parts that a user has frozen
    wrapped = Wrapped(network)
    random = torch.get_rng_state()
    built.loss(wrapped, sample(INSIDE), UNCONDITIONAL)
    assert network.calls == [*((count, False, False) for count in rows[:-1]), (rows[-1], True, True)]
    assert network.training
    assert not network.drop.training
    assert torch.equal(torch.get_rng_state(), random)
    network.calls.clear()
    network.eval()
    with torch.no_grad():
        built.loss(wrapped, sample(INSIDE), UNCONDITIONAL)
    assert network.calls == [(count, False, False) for count in rows]
    assert not network.training


def test_modes_are_set_back_after_a_failure():
    network = Smooth(1)
    network.register_forward_hook(lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        matching(flow_of(Smooth(2))).loss(network, sample(), UNCONDITIONAL)
    assert network.calls == [(SIZE, False, False)]
    assert network.training
    assert torch.is_grad_enabled()


def test_several_points_of_an_example_stand_next_to_one_another():
    seen: list[Tensor] = []

    def model(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        seen.append(condition.label)
        return x_t + t[:, None] + condition.label[:, None]

    x = torch.arange(6.0).reshape(3, 2)
    first, second = at_points(model, Condition(torch.arange(3)), (x, torch.zeros(3)), (10 * x, torch.ones(3)))
    assert seen[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(first, x + torch.arange(3)[:, None])
    assert torch.equal(second, 10 * x + 1 + torch.arange(3)[:, None])
