import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from moe.seeds import fold_in
from tests.each import each
from tests.trainer.flow.unions import members, name
from trainer.flow import path, sampler, target
from trainer.flow.field import NetworkField

OF_HEADS = {sampler.Transition, sampler.CausalTransition}
"""They need more than a field: see test_transition.py and test_causal_transition.py."""
samplers = each("config", [member for member in members(sampler.Config) if member not in OF_HEADS], ids=name)
FOLLOWS_NO_CURVE = {sampler.EulerMaruyama, sampler.StochasticHeun, sampler.Renoise}
"""They reach a distribution over other trajectories, each with noise of its own: see test_random_samplers.py and
test_renoise.py."""
followers = each(
    "config", [member for member in members(sampler.Config) if member not in FOLLOWS_NO_CURVE | OF_HEADS], ids=name
)
FIXED = [(sampler.Euler(), 1), (sampler.Heun(), 2)]


STRAIGHT = path.Affine(path.linear)


def built_from(config: type) -> sampler.Sampler:
    return config().build(STRAIGHT)


def known(velocity: sampler.VelocityField) -> NetworkField:
    """A field on the straight path whose velocity is known."""
    return NetworkField(velocity, target.Velocity().build(STRAIGHT))


KEYS = fold_in(torch.tensor(0), torch.arange(5))


def grid(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def fine(config: type, steps: int) -> Tensor:
    """A grid of so many steps; of fewer for the sampler that takes as many within each as it needs."""
    return grid(steps // 10 if config is sampler.Dopri5 else steps)


def states(size: int = 5) -> Tensor:
    return torch.randn(size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def growth(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = (1 + cos t) x, solved by x_0 exp(t + sin t)."""
    return (1 + torch.cos(t)).reshape(-1, 1) * x


def rotation(x: Tensor, _t: Tensor) -> Tensor:
    """A quarter turn in unit time."""
    return math.pi / 2 * torch.stack((-x[:, 1], x[:, 0]), dim=1)


def gaussian(mean: float, std: float):
    """The velocity that carries N(0, 1) to N(mean, std^2) along the straight path, in closed form."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, 1)
        return mean + (t * std**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * std**2) * (x - t * mean)

    return velocity


@followers
def test_growth_and_rotation_reach_their_closed_form(config):
    built = built_from(config)
    grown = built.sample(known(growth), states(), fine(config, 800)).final
    torch.testing.assert_close(grown, states() * math.exp(1 + math.sin(1)), rtol=2e-3, atol=1e-3)
    turned = built.sample(known(rotation), states(), fine(config, 800)).final
    torch.testing.assert_close(turned, torch.stack((-states()[:, 1], states()[:, 0]), dim=1), rtol=2e-3, atol=3e-3)


@followers
def test_a_gaussian_is_carried_to_a_gaussian(config):
    """The flow map is x_1 = mean + std x_0 for every point, so moments follow."""
    x_0 = torch.randn(2000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x_1 = built_from(config).sample(known(gaussian(2.0, 0.5)), x_0, fine(config, 400)).final
    torch.testing.assert_close(x_1, 2 + 0.5 * x_0, rtol=0, atol=1e-2)


@followers
def test_the_way_back_returns_to_the_start(config):
    built = built_from(config)
    there = built.sample(known(rotation), states(), fine(config, 800)).final
    back = built.sample(known(rotation), there, fine(config, 800).flip(0)).final
    torch.testing.assert_close(back, states(), rtol=0, atol=1e-2)


@samplers
def test_the_trajectory_follows_the_grid(config):
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        assert t.shape == (5,)
        return rotation(x, t)

    times = torch.tensor([0.0, 0.3, 0.35, 1.0], dtype=torch.float64)
    trajectory = built_from(config).sample(known(counted), states(), times, keys=KEYS)
    assert trajectory.x.shape == (4, 5, 2)
    assert torch.equal(trajectory.x[0], states())
    assert torch.equal(trajectory.final, trajectory.x[-1])
    assert torch.equal(trajectory.times, times)
    assert trajectory.calls["network"] == calls > 0


@samplers
@each("direction", [1, -1])
def test_the_field_is_asked_within_the_path_alone(config, direction):
    def bounded(x: Tensor, t: Tensor) -> Tensor:
        assert bool(((t >= 0) & (t <= 1)).all())
        return rotation(x, t)

    built_from(config).sample(known(bounded), states(), grid(3) if direction > 0 else grid(3).flip(0), keys=KEYS)


@samplers
def test_an_example_is_drawn_alike_whatever_else_is_in_the_batch(config):
    """Dopri5 alone chooses its steps by the whole batch; here its tolerance is what may differ."""
    built = built_from(config)
    whole = built.sample(known(rotation), states(), grid(12), keys=KEYS).final
    again = built.sample(known(rotation), states(), grid(12), keys=KEYS).final
    part = built.sample(known(rotation), states()[3:], grid(12), keys=KEYS[3:]).final
    assert torch.equal(whole, again)
    torch.testing.assert_close(part, whole[3:], rtol=0, atol=1e-4 if config is sampler.Dopri5 else 1e-14)


@followers
def test_gradients_flow_through(config):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    final = built_from(config).sample(known(lambda x, _: rate * x), states(), grid(200)).final
    (slope,) = torch.autograd.grad(final.sum(), rate)
    torch.testing.assert_close(slope, (states() * math.exp(0.5)).sum(), rtol=1e-2, atol=1e-3)


@samplers
def test_single_precision_states_stay_so(config):
    trajectory = built_from(config).sample(known(growth), states().float(), config().grid(), keys=KEYS)
    assert trajectory.x.dtype == torch.float32


@samplers
@each("times", [[0.0], [[0.0, 1.0]], [0.0, 0.5, 0.5], [0.0, 0.7, 0.2], [0.0, math.nan], [0, math.inf]])
def test_grids_that_lead_nowhere_are_refused(config, times):
    with pytest.raises(ValueError, match=r"^times: .*; "):
        built_from(config).sample(known(growth), states(), torch.tensor(times), keys=KEYS)


@samplers
def test_the_configured_grid_runs_from_source_to_data(config):
    times = config().grid()
    assert float(times[0]) == 0
    assert float(times[-1]) == 1
    assert bool((times.diff() > 0).all())


@samplers
@each("evaluations", [1, 2, 6, 7, 60])
def test_a_sampler_is_changed_to_a_number_of_evaluations(config, evaluations):
    changed = config().with_evaluations(evaluations)
    if changed is None:
        reason = {
            sampler.Dopri5: True,
            sampler.Heun: evaluations % 2 == 1,
            sampler.StochasticHeun: evaluations % 2 == 1,
            sampler.Segmented: evaluations % 6 > 0,
        }
        assert reason[config]
        return
    built = changed.build(STRAIGHT)
    drawn = built.sample(known(rotation), states(), changed.grid(), keys=KEYS)
    assert drawn.calls == {"network": evaluations}
    assert changed.kind == config().kind


@pytest.mark.parametrize(("built", "order"), FIXED)
def test_the_error_shrinks_at_the_order_of_the_method(built, order):
    truth = states() * math.exp(1 + math.sin(1))
    steps = [20, 40, 80, 160]
    errors = [float((built.sample(known(growth), states(), grid(n)).final - truth).norm()) for n in steps]
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.05)
    assert built.sample(known(growth), states(), grid(20)).calls == {"network": 20 * order}


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_dopri5_keeps_its_tolerance(tolerance):
    trajectory = sampler.Dopri5(rtol=tolerance, atol=tolerance).sample(growth, states(), grid(1))
    error = (trajectory.final - states() * math.exp(1 + math.sin(1))).abs().max()
    assert float(error) < 20 * tolerance


@each(
    "values",
    [
        {"kind": "euler", "steps": 0},
        {"kind": "dopri5", "rtol": 0.0},
        {"kind": "rk45"},
        {"kind": "euler_maruyama", "diffusion": [1.0, -0.1]},
        {"kind": "stochastic_heun", "diffusion": [math.inf, 0.0]},
        {"kind": "first_order", "steps": 11, "trained_times": 10},
        {"kind": "segmented", "segments": 0},
        {"kind": "segmented", "within": {"kind": "segmented"}},
        {"kind": "segmented", "within": {"kind": "first_order", "trained_times": 1000}},
    ],
)
def test_wrong_settings_are_refused(values):
    from pydantic import TypeAdapter

    with pytest.raises(ValidationError):
        TypeAdapter(sampler.Config).validate_python(values)
