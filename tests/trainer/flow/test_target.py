from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.trainer.flow.paths import NOISY
from tests.trainer.flow.paths import name as path_name
from tests.trainer.flow.unions import members, name
from trainer.flow import path, target
from trainer.flow.coupling import Pairs

QUANTITIES: tuple[target.Quantity, ...] = get_args(target.Quantity)
targets = pytest.mark.parametrize("config", members(target.Config), ids=name)
schedules = pytest.mark.parametrize("schedule", [path.linear, path.trigonometric])
pairs_of_quantities = pytest.mark.parametrize(("source", "to"), list(product(QUANTITIES, QUANTITIES)))


def points(schedule: path.Schedule, t: Tensor) -> tuple[Pairs, path.PathSample]:
    x_0, x_1 = torch.randn(2, len(t), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pairs = Pairs(x_0, x_1)
    return pairs, path.Affine(schedule).sample(pairs, t, generator=torch.Generator())


def truth(sample: path.PathSample, c: path.Coefficients) -> dict[target.Quantity, Tensor]:
    """Every quantity of a point, by its definition."""
    a, b, g = (value.reshape(-1, 1) for value in (c.a, c.b, c.g))
    own = bool((g != 0).any())
    return {
        "velocity": sample.velocity,
        "data": sample.x_1,
        "noise": sample.noise,
        "score": -sample.noise / (g if own else a),
        "v_prediction": b * sample.x_0 - a * sample.x_1,
    }


def on(config: target.Config) -> path.Path:
    """A path on which a target is defined."""
    own = isinstance(config, target.VelocityAndNoiseConfig)
    return path.build(path.StochasticInterpolantConfig() if own else path.TrigonometricConfig())


def undefined(schedule: path.Schedule, *quantities: str) -> bool:
    return "v_prediction" in quantities and schedule is not path.trigonometric


def inside() -> Tensor:
    return torch.linspace(0.02, 0.98, 9, dtype=torch.float64)


@schedules
@pairs_of_quantities
def test_every_quantity_gives_every_other(schedule, source, to):
    if undefined(schedule, source, to):
        return
    _, sample = points(schedule, inside())
    c = schedule(inside())
    true = truth(sample, c)
    converted = target.convert(true[source], sample.x_t, c, source=source, to=to)
    torch.testing.assert_close(converted, true[to], rtol=1e-9, atol=1e-9)
    back = target.convert(converted, sample.x_t, c, source=to, to=source)
    torch.testing.assert_close(back, true[source], rtol=1e-9, atol=1e-9)


@targets
@pytest.mark.parametrize("to", QUANTITIES)
def test_a_target_converts_what_it_makes(config, to):
    between, (pairs, _) = on(config()), points(path.linear, inside())
    sample = between.sample(pairs, inside(), generator=torch.Generator().manual_seed(3))
    built = target.build(config(), path=between)
    made = built.make(sample)
    assert made.shape == (9, 4 * built.num_fields)
    if built.num_fields == 2 and to == "v_prediction":
        with pytest.raises(ValueError, match="use the score"):
            built.convert(made, sample.x_t, sample.t, to)
        return
    converted = built.convert(made, sample.x_t, sample.t, to)
    torch.testing.assert_close(converted, truth(sample, between.coefficients(inside()))[to], rtol=1e-9, atol=1e-9)


@targets
def test_a_target_names_its_fields(config):
    built = target.build(config(), path=on(config()))
    assert len(built.quantities) == built.num_fields == target.num_fields(config())
    sample = on(config()).sample(points(path.linear, inside())[0], inside(), generator=torch.Generator().manual_seed(3))
    fields = built.make(sample).chunk(built.num_fields, dim=1)
    true = truth(sample, on(config()).coefficients(inside()))
    for quantity, field in zip(built.quantities, fields, strict=True):
        torch.testing.assert_close(field, true[quantity])


@schedules
def test_the_velocity_of_a_gaussian_gives_its_score(schedule):
    """From N(0, I) to N(0, s^2 I) the density at t is N(0, V I), V = a^2 + b^2 s^2, with score -x / V."""
    s, t = 0.4, inside()
    c = schedule(t)
    variance = c.a**2 + c.b**2 * s**2
    x = torch.randn(len(t), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    velocity = (c.a * c.da + c.b * c.db * s**2) / variance * x
    score = target.convert(velocity, x, c, source="velocity", to="score")
    torch.testing.assert_close(score, -x / variance)


@schedules
@pytest.mark.parametrize("end", [0.0, 1.0])
@pairs_of_quantities
def test_the_ends_stay_finite(schedule, end, source, to):
    t = torch.full((5,), end, dtype=torch.float64)
    value, x_t = torch.ones(5, 2, dtype=torch.float64), torch.full((5, 2), 0.5, dtype=torch.float64)
    assert bool(target.convert(value, x_t, schedule(t), source=source, to=to).isfinite().all())


@schedules
def test_the_velocity_gives_data_and_noise_exactly_at_both_ends(schedule):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pairs, sample = points(schedule, t)
    wanted: dict[target.Quantity, Tensor] = {"data": pairs.x_1, "noise": pairs.x_0}
    for to, true in wanted.items():
        converted = target.convert(sample.velocity, sample.x_t, schedule(t), source="velocity", to=to)
        torch.testing.assert_close(converted, true)


@schedules
def test_a_first_order_step_moves_along_the_path(schedule):
    """x_s = a_s noise + b_s data; on the straight path this is Euler's step on the velocity."""
    t, s = inside(), inside() + 0.01
    _, sample = points(schedule, t)
    data, noise = (
        target.convert(sample.velocity, sample.x_t, schedule(t), source="velocity", to=to) for to in ("data", "noise")
    )
    c = schedule(s).broadcast(data)
    torch.testing.assert_close(c.a * noise + c.b * data, points(schedule, s)[1].x_t)
    if schedule is path.linear:
        torch.testing.assert_close(c.a * noise + c.b * data, sample.x_t + 0.01 * sample.velocity)


@pytest.mark.parametrize("config", NOISY, ids=path_name)
@pairs_of_quantities
def test_one_quantity_of_a_noisy_path_gives_little(config, source, to):
    between, (pairs, _) = path.build(config), points(path.linear, inside())
    sample = between.sample(pairs, inside(), generator=torch.Generator().manual_seed(3))
    c = between.coefficients(inside())
    true = truth(sample, c)
    if source == to or {source, to} == {"noise", "score"}:
        torch.testing.assert_close(target.convert(true[source], sample.x_t, c, source=source, to=to), true[to])
        return
    with pytest.raises(ValueError, match=r"g = 0.*; predict velocity_and_noise"):
        target.convert(true[source], sample.x_t, c, source=source, to=to)


@pytest.mark.parametrize("config", NOISY, ids=path_name)
def test_velocity_and_noise_give_score_and_the_velocity_without_noise(config):
    """score = -z / g for any source, and velocity + g dg score = da x_0 + db x_1."""
    between, (pairs, _) = path.build(config), points(path.linear, inside())
    sample = between.sample(pairs, inside(), generator=torch.Generator().manual_seed(3))
    both = target.VelocityAndNoise(between)
    score = both.convert(both.make(sample), sample.x_t, sample.t, "score")
    c = between.coefficients(inside()).broadcast(sample.x_t)
    torch.testing.assert_close(c.g * score, -sample.noise)
    torch.testing.assert_close(sample.velocity + c.g_dg * score, c.da * pairs.x_0 + c.db * pairs.x_1)


@pytest.mark.parametrize("config", NOISY, ids=path_name)
@pytest.mark.parametrize("to", ["velocity", "noise", "score"])
def test_the_ends_of_a_noisy_path_stay_finite(config, to):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    both = target.VelocityAndNoise(path.build(config))
    assert bool(both.convert(torch.ones(2, 8), torch.ones(2, 4), t, to).isfinite().all())


def test_data_that_a_path_leaves_open_are_refused():
    both = target.VelocityAndNoise(path.build(path.MirrorInterpolantConfig()))
    with pytest.raises(ValueError, match="leave the data open"):
        both.convert(torch.ones(9, 8), torch.ones(9, 4), inside(), "data")


def test_v_prediction_refuses_a_path_that_does_not_keep_the_variance():
    with pytest.raises(ValueError, match=r"flow.target.kind: v_prediction .*; use a variance-preserving path"):
        target.VPrediction(path.Affine(path.linear))


def test_v_and_noise_give_the_same_data():
    _, sample = points(path.trigonometric, inside())
    noise = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    c = path.trigonometric(inside())
    v = target.convert(noise, sample.x_t, c, source="noise", to="v_prediction")
    of_noise = target.convert(noise, sample.x_t, c, source="noise", to="data")
    of_v = target.convert(v, sample.x_t, c, source="v_prediction", to="data")
    torch.testing.assert_close(of_v, of_noise, rtol=1e-9, atol=1e-9)


def test_a_velocity_serves_sampling_on_any_path():
    """A path without coefficients refuses every conversion but that of the velocity to itself."""

    class Bent(path.Affine):
        def coefficients(self, t: Tensor) -> path.Coefficients:
            raise ValueError(f"path: not of the form a x_0 + b x_1 + g z at {t}; predict the velocity")

    built, x = target.Velocity(Bent(path.linear)), torch.ones(2, 1)
    assert built.convert(x, 2 * x, torch.ones(2), "velocity") is x
    with pytest.raises(ValueError, match="not of the form"):
        built.convert(x, 2 * x, torch.ones(2), "data")


@targets
def test_an_unknown_quantity_is_refused(config):
    built = target.build(config(), path=on(config()))
    x = torch.ones(2, 2)
    unknown: Any = "energy"
    with pytest.raises(ValueError, match="to: no quantity is called 'energy'; use one of velocity, data"):
        built.convert(x, x, torch.ones(2), unknown)
