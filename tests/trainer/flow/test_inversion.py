"""From given states back to noise: the ways back by the field, on flows in closed form."""

from dataclasses import dataclass, field

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tests.each import each
from tests.trainer.flow.test_sampler import KEYS, STRAIGHT, gaussian, grid, known, states
from tests.trainer.flow.unions import members
from trainer.flow import inversion, path, sampler, target
from trainer.flow.condition import keyed_normal
from trainer.flow.field import NetworkField
from trainer.flow.inversion import EulerInverse, Reverse, UniInversion

KINDS = [kind() for kind in members(inversion.Config)]
kinds = pytest.mark.parametrize("config", KINDS, ids=lambda one: one.kind)
UNINVERTIBLE = [
    (sampler.Dopri5(), "chooses its steps by the whole batch"),
    (sampler.Segmented(within=sampler.Dopri5()), "chooses its steps by the whole batch"),
    (sampler.Renoise(), "draws noise on its way"),
    (sampler.EulerMaruyama(), "draws noise on its way"),
    (sampler.Segmented(within=sampler.StochasticHeun()), "draws noise on its way"),
    (sampler.Transition(), "draws noise on its way"),
]


@dataclass(frozen=True)
class SpeedOfSegment(NetworkField):
    """A field that moves every value by the number of the segment plus one, and counts where it was asked."""

    segment: int | None = None
    asked: list[tuple[int, float]] = field(default_factory=list)

    def within(self, segment: int, /) -> "SpeedOfSegment":
        def speed(x: Tensor, t: Tensor) -> Tensor:
            self.asked.append((segment, float(t[0])))
            return torch.full_like(x, segment + 1.0)

        return SpeedOfSegment(speed, self.target, segment, self.asked)


class Counted(NetworkField):
    """A field in closed form, and how often it was asked."""

    calls = 0

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        type(self).calls += 1
        return super().__call__(x, t)


def there_and_back(way: inversion.Inversion, steps: int, forth: sampler.Sampler | None = None) -> float:
    """Root mean square of the distance between states and what Euler's method leads their noise to."""
    flow, forth = known(gaussian(2.0, 0.5)), forth or sampler.Euler()
    noise = way.invert(flow, states(), grid(steps), keys=KEYS).noise
    return float((forth.sample(flow, noise, grid(steps)).final - states()).square().mean().sqrt())


def test_the_way_back_and_forth_by_euler_is_wrong_at_first_order():
    errors = [there_and_back(Reverse().build(sampler.Euler(), STRAIGHT), steps) for steps in (40, 80, 160)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


def test_uni_inversion_is_wrong_at_second_order_and_nearer_with_any_number_of_steps():
    errors = [there_and_back(UniInversion(), steps) for steps in (40, 80, 160)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    for steps in (5, 10, 20, 40):
        assert there_and_back(UniInversion(), steps) < 0.5 * there_and_back(
            Reverse().build(sampler.Euler(), STRAIGHT), steps
        )


@pytest.mark.parametrize("evaluations", [2, 3])
def test_each_further_evaluation_wins_an_order(evaluations):
    errors = [there_and_back(UniInversion(evaluations=evaluations), steps) for steps in (40, 80, 160)]
    assert errors[1] / errors[2] == pytest.approx(2 ** (1 + evaluations), rel=0.15)
    assert errors[0] < 0.2 * there_and_back(UniInversion(evaluations=evaluations - 1), 40)


def test_many_evaluations_undo_eulers_steps_exactly():
    assert there_and_back(UniInversion(evaluations=60), 10) < 1e-12


@pytest.mark.parametrize("forth", [sampler.Heun(), sampler.Segmented(segments=3, within=sampler.Heun())])
def test_the_sampler_of_a_run_goes_back_at_its_own_order(forth):
    """The noise of x_1 = 2 + x_0 / 2 is known."""
    flow, exact = known(gaussian(2.0, 0.5)), (states() - 2) / 0.5
    errors = [
        float(
            (Reverse().build(forth, STRAIGHT).invert(flow, states(), grid(steps), keys=KEYS).noise - exact).abs().max()
        )
        for steps in (60, 120)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_pull_is_that_of_the_published_loop(gamma):
    """x <- x - h (v + gamma ((x - y) / t - v)) with a drawn noise y; all the way with gamma = 1."""
    flow, noise = gaussian(2.0, 0.5), keyed_normal(states(), KEYS, 0)
    x, h = states(), 1 / 7
    for number in range(7, 0, -1):
        t = number * h
        velocity = flow(x, torch.full((5, 1), t))
        x = x - h * (velocity + gamma * ((x - noise) / t - velocity))
    way = inversion.Reverse(pull=gamma).build(sampler=sampler.Euler(steps=7), path=STRAIGHT)
    found = way.invert(known(flow), states(), grid(7), keys=KEYS)
    torch.testing.assert_close(found.noise, x)
    assert found.calls == 7
    if gamma == 1:
        torch.testing.assert_close(found.noise, noise)


def test_a_pull_along_a_path_with_noise_of_its_own_is_refused():
    noisy = path.StochasticInterpolantConfig().build()
    with pytest.raises(ValueError, match="adds noise of its own"):
        Reverse(pull=0.5).build(sampler.Euler(), noisy)
    Reverse().build(sampler.Euler(), noisy)


@pytest.mark.parametrize(("config", "a_drawing"), [(sampler.Euler(steps=7), 7), (sampler.Heun(steps=7), 14)])
def test_calls_are_those_of_the_field(config, a_drawing):
    flow = Counted(gaussian(2.0, 0.5), target.Velocity().build(STRAIGHT))
    expected: list[tuple[inversion.AnyConfig, int]] = [
        (inversion.Reverse(), a_drawing),
        (inversion.UniInversion(), 7 + 1),
        (inversion.UniInversion(evaluations=3), 3 * 7 + 1),
        (inversion.ZeroOrder(iterations=3), 7 + 1 + 4 * a_drawing),
        (inversion.ZeroOrder(iterations=3, initial=inversion.Reverse()), 5 * a_drawing),
    ]
    for way, calls in expected:
        Counted.calls = 0
        found = way.build(sampler=config, path=STRAIGHT)
        assert found.invert(flow, states(), config.grid(), keys=KEYS).calls == Counted.calls == calls


def test_uni_inversion_undoes_the_steps_of_a_velocity_that_the_state_does_not_change():
    def pushed(x: Tensor, t: Tensor) -> Tensor:
        return (1 + 5 * t[:, None] ** 2).expand_as(x)

    noise = UniInversion().invert(known(pushed), states(), grid(6), keys=KEYS).noise
    torch.testing.assert_close(sampler.Euler().sample(known(pushed), noise, grid(6)).final, states())


@pytest.mark.parametrize("config", [inversion.Reverse(), inversion.UniInversion()])
def test_each_step_back_asks_the_field_of_its_own_segment(config):
    flow = SpeedOfSegment(lambda x, _t: x * torch.nan, target.Velocity().build(STRAIGHT))
    segmented = sampler.Segmented(segments=3, within=sampler.Euler(steps=2))
    way = config.build(sampler=segmented, path=STRAIGHT)
    noise = way.invert(flow, states(), segmented.grid().double(), keys=KEYS).noise
    torch.testing.assert_close(noise, states() - (1 + 2 + 3) / 3, rtol=0, atol=1e-6)
    for segment, t in flow.asked:
        assert segment / 3 - 1e-6 <= t <= (segment + 1) / 3 + 1e-6


@kinds
def test_every_kind_finds_noise_that_leads_back_and_a_row_is_a_function_of_itself(config):
    of_run = sampler.Euler(steps=200)
    way, flow, times = config.build(sampler=of_run, path=STRAIGHT), known(gaussian(2.0, 0.5)), grid(200)
    found = way.invert(flow, states(), times, keys=KEYS)
    drawn = sampler.Euler().sample(flow, found.noise, times).final
    torch.testing.assert_close(drawn, states(), rtol=0, atol=0.1)
    for rows in (slice(0, 1), slice(1, 5)):
        alone = way.invert(flow, states()[rows], times, keys=KEYS[rows])
        assert torch.equal(alone.noise, found.noise[rows])
        if found.errors is not None and alone.errors is not None:
            assert torch.equal(alone.errors, found.errors[:, rows])


def test_the_inverse_of_eulers_method_is_a_sampler_that_reports_its_grid():
    trajectory = EulerInverse().sample(known(gaussian(2.0, 0.5)), states(), grid(4).flip(0))
    assert trajectory.x.shape == (5, 5, 2)
    assert torch.equal(trajectory.x[0], states())
    assert torch.equal(trajectory.times, grid(4).flip(0))
    assert trajectory.calls == {"network": 5}


@each(("config", "reason"), UNINVERTIBLE, ids=lambda one: getattr(one, "kind", ""))
def test_a_sampler_whose_noise_is_not_the_examples_own_is_refused(config, reason):
    with pytest.raises(ValueError, match=f"sampler: .* {reason}.*; invert with euler"):
        inversion.UniInversion().build(sampler=config, path=STRAIGHT)


@each(
    ("document", "complaint"),
    [
        ({"kind": "zero_order", "iterations": 0}, "greater than 0"),
        ({"kind": "zero_order", "step_size": -0.1}, "greater than 0"),
        ({"kind": "zero_order", "initial": {"kind": "zero_order"}}, "does not match any of the expected tags"),
        ({"kind": "uni_inversion", "evaluations": 0}, "greater than 0"),
        ({"kind": "reverse", "pull": 1.5}, "less than or equal to 1"),
        ({"kind": "uni_inv"}, "does not match any of the expected tags"),
    ],
)
def test_wrong_settings_are_refused(document, complaint):
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(inversion.Config).validate_python(document)
