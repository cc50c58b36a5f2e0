from itertools import product
from math import pi
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from tests.trainer.flow.unions import members, name
from trainer.flow import path, target
from trainer.flow.coupling import Pairs

QUANTITIES = get_args(target.Quantity)
targets = pytest.mark.parametrize("config", members(target.Config), ids=name)


def trigonometric(t: Tensor) -> path.Coefficients:
    """A curved path, to show that conversions know nothing of the straight one."""
    zero, angle = torch.zeros_like(t), pi / 2 * t
    a, b = torch.cos(angle), torch.sin(angle)
    return path.Coefficients(a=a, b=b, g=zero, da=-pi / 2 * b, db=pi / 2 * a, dg=zero, g_dg=zero)


schedules = pytest.mark.parametrize("schedule", [path.linear, trigonometric])


def points(schedule: path.Schedule, t: Tensor) -> tuple[Pairs, path.PathSample]:
    x_0, x_1 = torch.randn(2, len(t), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pairs = Pairs(x_0, x_1)
    return pairs, path.Affine(schedule).sample(pairs, t, generator=torch.Generator())


def inside() -> Tensor:
    return torch.linspace(0.02, 0.98, 9, dtype=torch.float64)


@schedules
@pytest.mark.parametrize(("source", "to"), list(product(QUANTITIES, QUANTITIES)))
def test_every_quantity_gives_every_other(schedule, source, to):
    pairs, sample = points(schedule, inside())
    c = schedule(inside())
    true = {
        "velocity": sample.velocity,
        "data": pairs.x_1,
        "noise": pairs.x_0,
        "score": -pairs.x_0 / c.a.reshape(-1, 1),
    }
    converted = target.convert(true[source], sample.x_t, c, source=source, to=to)
    torch.testing.assert_close(converted, true[to], rtol=1e-9, atol=1e-9)
    back = target.convert(converted, sample.x_t, c, source=to, to=source)
    torch.testing.assert_close(back, true[source], rtol=1e-9, atol=1e-9)


@targets
@pytest.mark.parametrize("to", QUANTITIES)
def test_a_target_converts_what_it_makes(config, to):
    pairs, sample = points(path.linear, inside())
    built = target.build(config(), path=path.Affine(path.linear))
    true = {"velocity": sample.velocity, "data": pairs.x_1, "noise": pairs.x_0}
    true["score"] = -pairs.x_0 / (1 - inside()).reshape(-1, 1)
    converted = built.convert(built.make(sample), sample.x_t, sample.t, to)
    torch.testing.assert_close(converted, true[to], rtol=1e-9, atol=1e-9)


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
@pytest.mark.parametrize(("source", "to"), list(product(QUANTITIES, QUANTITIES)))
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


def test_a_path_with_noise_of_its_own_is_refused():
    c = path.linear(inside())
    noisy = path.Coefficients(c.a, c.b, g=c.a * c.b, da=c.da, db=c.db, dg=1 - 2 * c.b, g_dg=c.a * c.b * (1 - 2 * c.b))
    with pytest.raises(ValueError, match="g = 0"):
        target.convert(torch.ones(9, 1), torch.ones(9, 1), noisy, source="velocity", to="score")


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
    built = target.build(config(), path=path.Affine(path.linear))
    x = torch.ones(2, 1)
    unknown: Any = "energy"
    with pytest.raises(ValueError, match="to: no quantity is called 'energy'; use one of velocity, data"):
        built.convert(x, x, torch.ones(2), unknown)
