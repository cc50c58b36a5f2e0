"""Fit and Monge gap of a map of one step, against POT, closed forms and gradients by hand."""

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from moe.ot import monge_gap, sinkhorn, squared_euclidean
from trainer.flow import UNCONDITIONAL, Condition, objective, path, target
from trainer.flow.coupling import Pairs
from trainer.flow.objective import monge
from trainer.flow.objective.monge import Entropic, Exact
from trainer.flow.path import PathSample

STRAIGHT = path.Linear()
VELOCITY = target.Velocity().build(STRAIGHT)
EXACT = Exact()
ENTROPIC = Entropic(epsilon=0.05, max_iterations=5000)
NUM, DIMENSIONS = 24, 3


def points(num: int = NUM, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, DIMENSIONS, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def least_cost(x: Tensor, y: Tensor) -> float:
    """Half the squared 2-Wasserstein distance, by POT alone."""
    return float(np.asarray(ot.emd2([], [], ot.dist(x.detach().numpy(), y.detach().numpy())))) / 2


def pairing(x: Tensor, y: Tensor) -> Tensor:
    """The point of y of each of x in the plan of least cost, by POT alone."""
    plan = np.asarray(ot.emd([], [], ot.dist(x.detach().numpy(), y.detach().numpy())))
    return torch.from_numpy(plan.argmax(1))


def sample(num: int = NUM) -> PathSample:
    t = torch.linspace(0.1, 0.9, num, dtype=torch.float64)
    pairs = Pairs(points(num), 2 * points(num, seed=1) + 1)
    return STRAIGHT.sample(pairs, t, generator=torch.Generator())


class Affine(torch.nn.Module):
    """Velocities that are affine in state and time, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        start = torch.randn(DIMENSIONS, DIMENSIONS, dtype=torch.float64, generator=generator)
        self.matrix = torch.nn.Parameter(start)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor, *_: Condition) -> Tensor:
        self.calls.append((x_t.detach(), t))
        return x_t @ self.matrix + t[:, None]


def map_gradient(loss: objective.LossTerms, model: Affine, weight: Tensor | None = None) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.mean(weight), model.matrix)
    return gradient


def monge_map(weight: float = 1.0) -> objective.Objective:
    return objective.MongeMap(weight=weight).build(objective.ObjectiveInputs(VELOCITY))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_gap_of_the_gradient_of_a_convex_function_is_zero_on_any_sample(dtype):
    x = points(200, dtype=dtype)
    root = points(DIMENSIONS, seed=3, dtype=dtype)
    stretched = x @ (root @ root.mT) + x.exp()  # of x' S x / 2 + sum of exp(x)
    assert float(EXACT.gap(x, stretched).mean()) == pytest.approx(0, abs=1e-6)
    assert float(EXACT.gap(x, x + 7).abs().max()) == pytest.approx(0, abs=1e-4 if dtype == torch.float32 else 1e-12)


def test_the_gap_of_the_mirror_image_is_what_moving_to_it_does_not_need():
    x = points(100)
    expected = 0.5 * float((2 * x).square().sum(1).mean()) - least_cost(x, -x)
    assert float(EXACT.gap(x, -x).mean()) == pytest.approx(expected, rel=1e-9)
    assert expected > 1


def test_gap_and_fit_are_half_of_those_of_the_core():
    """The core's cost is |x - y|^2, here it is half of that: in fit and gap alike, so that their weight stays.

    With the fit kept at the half and the gap in units of the core, half the weight gives the same loss.
    """
    x, y = points(), points(seed=1)
    mapped = (-x).requires_grad_()
    fit, gap = (values.mean() for values in EXACT.fit_and_gap(x, mapped, y))
    core_gap = monge_gap(x, mapped)
    torch.testing.assert_close(2 * gap, core_gap)
    assert 2 * float(fit.detach()) == pytest.approx(
        float(np.asarray(ot.emd2([], [], ot.dist(mapped.detach().numpy(), y.numpy()))))
    )
    for ours, theirs in ((2 * (fit + 3 * gap), 2 * fit + 3 * core_gap), (fit + gap, fit + core_gap / 2)):
        expected = torch.autograd.grad(theirs, mapped, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(ours, mapped, retain_graph=True), expected)


def test_the_gradient_is_that_of_the_pairs_of_least_cost_held_fixed():
    """By hand: the fit pulls an image towards its data point, the gap pushes it off its source point's best image."""
    x, y, mapped = points(), points(seed=1), points(seed=2).requires_grad_()
    fit, gap = EXACT.fit_and_gap(x, mapped, y)
    (pulled,) = torch.autograd.grad(fit.mean(), mapped)
    torch.testing.assert_close(pulled, (mapped.detach() - y[pairing(mapped, y)]) / NUM)
    (freed,) = torch.autograd.grad(gap.mean(), mapped)
    nearest = pairing(mapped, x)
    torch.testing.assert_close(freed, ((mapped - x) - (mapped - x[nearest])).detach() / NUM)


def test_every_example_has_its_share_and_its_weight():
    x, y, mapped = points(), points(seed=1), points(seed=2).requires_grad_()
    fit, gap = EXACT.fit_and_gap(x, mapped, y)
    matched = y[pairing(mapped, y)]
    torch.testing.assert_close(fit, 0.5 * (mapped - matched).square().sum(1))
    image = mapped[pairing(x, mapped)]
    torch.testing.assert_close(gap, 0.5 * ((x - mapped).square().sum(1) - (x - image).square().sum(1)))
    weight = torch.rand(NUM, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (gradient,) = torch.autograd.grad(objective.LossTerms(fit, {}).mean(weight), mapped)
    torch.testing.assert_close(gradient, weight[:, None] * (mapped.detach() - matched) / NUM)


def test_examples_are_matched_within_their_labels():
    x, y, mapped = points(), points(seed=1), points(seed=2)
    label = torch.arange(NUM) % 3
    fit, gap = EXACT.fit_and_gap(x, mapped, y, label)
    for one in range(3):
        own = label == one
        assert float(fit[own].mean()) == pytest.approx(least_cost(mapped[own], y[own]))
        moved = 0.5 * float((mapped[own] - x[own]).square().sum(1).mean())
        assert float(gap[own].mean()) == pytest.approx(moved - least_cost(x[own], mapped[own]))
    torch.testing.assert_close(EXACT.gap(x, mapped, label), gap)


def test_many_points_are_cut_into_equal_parts(monkeypatch):
    monkeypatch.setattr(monge, "MOST_POINTS", 10)  # 24 points: three parts of 8
    x, y, mapped = points(), points(seed=1), points(seed=2)
    fit, gap = EXACT.fit_and_gap(x, mapped, y)
    for rows in torch.arange(NUM).split(8):
        assert float(fit[rows].mean()) == pytest.approx(least_cost(mapped[rows], y[rows]))
        torch.testing.assert_close(gap[rows], EXACT.gap(x[rows], mapped[rows]))


def test_an_entropic_plan_has_the_gradient_of_the_sinkhorn_divergence():
    x, y, mapped = points(), points(seed=1), points(seed=2).requires_grad_()
    # The unit of the strength is the mean cost of each plan, and that of the core is the cost.
    costs = [squared_euclidean(*pair).detach() / 2 for pair in ((mapped, y), (mapped, mapped), (y, y))]
    fit, gap = ENTROPIC.fit_and_gap(x, mapped, y)
    values = []
    for (left, right), cost in zip(((mapped, y), (mapped, mapped), (y, y)), costs, strict=True):
        values.append(_entropic(left, right, float(ENTROPIC.epsilon * cost.mean())))
    expected = torch.autograd.grad(values[0] - (values[1] + values[2]) / 2, mapped)
    torch.testing.assert_close(
        torch.autograd.grad(fit.mean(), mapped, retain_graph=True), expected, rtol=1e-2, atol=1e-4
    )
    exact = EXACT.fit_and_gap(x, mapped, y)
    assert float(gap.mean()) < float(exact.gap.mean()) + 1e-6  # the plan costs more than the best one
    assert float(gap.mean()) == pytest.approx(float(exact.gap.mean()), rel=0.2)


def _entropic(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The value of entropic transport, of which a Sinkhorn divergence is made."""
    mass = x.new_full((NUM,), 1 / NUM)
    costs = squared_euclidean(x, y) / 2
    return sinkhorn(costs, mass, mass, epsilon=epsilon, tolerance=1e-5, max_iterations=5_000).value


def test_the_map_is_asked_at_the_source_points_alone():
    drawn, model = sample(), Affine()
    loss = monge_map(0.5).loss(model, drawn, UNCONDITIONAL)
    ((states, times),) = model.calls
    assert torch.equal(states, drawn.x_0)
    assert not times.any()
    mapped = drawn.x_0 + drawn.x_0 @ model.matrix
    fit = least_cost(mapped, drawn.x_1)
    gap = 0.5 * float((mapped - drawn.x_0).square().sum(1).mean()) - least_cost(drawn.x_0, mapped)
    assert float(loss.mean()) == pytest.approx(fit + 0.5 * gap)
    assert {name: float(value) for name, value in loss.terms.items()} == pytest.approx({"fit": fit, "monge_gap": gap})
    assert gap > 0.01


def test_pairs_and_times_have_no_part_in_a_map():
    drawn = sample()
    order = torch.randperm(NUM, generator=torch.Generator().manual_seed(5))
    other = STRAIGHT.sample(Pairs(drawn.x_0, drawn.x_1[order]), drawn.t.flip(0), generator=torch.Generator())
    losses = [monge_map().loss(Affine(), one, UNCONDITIONAL).mean() for one in (drawn, other)]
    torch.testing.assert_close(losses[0], losses[1])


def test_predictions_of_the_data_are_the_images():
    drawn, model = sample(), Affine()
    loss = (
        objective.MongeMap()
        .build(objective.ObjectiveInputs(target.Data().build(STRAIGHT)))
        .loss(model, drawn, UNCONDITIONAL)
    )
    fit, gap = EXACT.fit_and_gap(drawn.x_0, drawn.x_0 @ model.matrix, drawn.x_1)
    torch.testing.assert_close(loss.values, fit + gap)


def test_a_regularised_regression_is_the_regression_and_the_gap():
    drawn, model = sample(), Affine()
    config = objective.Regression(monge_gap=objective.MongeGap(weight=0.3), space="data")
    loss = config.build(objective.ObjectiveInputs(VELOCITY)).loss(model, drawn, UNCONDITIONAL)
    assert len(model.calls) == 1
    plain = (
        objective.Regression(space="data").build(objective.ObjectiveInputs(VELOCITY)).loss(model, drawn, UNCONDITIONAL)
    )
    gap = EXACT.gap(drawn.x_0, drawn.x_0 + drawn.x_0 @ model.matrix)
    torch.testing.assert_close(loss.values, plain.per_example + 0.3 * gap)
    assert float(loss.terms["monge_gap"]) == pytest.approx(float(gap.mean().detach()))
    assert float(loss.terms["prediction_error"]) == pytest.approx(float(plain.mean().detach()))
    weight = torch.rand(NUM, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    expected = map_gradient(plain, model, weight) + 0.3 * map_gradient(objective.LossTerms(gap, {}), model, weight)
    torch.testing.assert_close(map_gradient(loss, model, weight), expected)


def test_images_of_any_shape_are_points():
    x, y, mapped = points(), points(seed=1), points(seed=2)
    flat = EXACT.fit_and_gap(x, mapped, y)
    shaped = EXACT.fit_and_gap(*(states.reshape(NUM, 1, DIMENSIONS, 1) for states in (x, mapped, y)))
    torch.testing.assert_close(shaped, flat)


def test_a_map_of_thirty_steps_beats_the_identity():
    """N(0, I) to N(2, diag(1/4, 1, 4)): the best map, 2 + x sqrt(S), is 13.25 away from x."""
    scale = torch.tensor([0.5, 1.0, 2.0])
    network = torch.nn.Linear(DIMENSIONS, DIMENSIONS)
    torch.nn.init.eye_(network.weight)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(7)
    built = objective.MongeMap().build(objective.ObjectiveInputs(target.Data().build(STRAIGHT)))
    for _ in range(30):
        x_0, x_1 = (torch.randn(64, DIMENSIONS, generator=generator) for _ in range(2))
        drawn = STRAIGHT.sample(Pairs(x_0, 2 + x_1 * scale), torch.zeros(64), generator=generator)
        optimizer.zero_grad()
        built.loss(lambda x, *_: network(x), drawn, UNCONDITIONAL).mean().backward()
        optimizer.step()
    x = points(500, dtype=torch.float32)
    error = (network(x) - (2 + x * scale)).square().sum(1).mean()
    assert float(error) < 0.1 * 13.25
