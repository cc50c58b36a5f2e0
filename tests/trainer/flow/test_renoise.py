"""Sampling by estimates of the data that are noised anew, on Gaussians in closed form."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.test_random_samplers import MEAN, STD, many
from tests.trainer.flow.test_sampler import KEYS, gaussian, grid, growth, known, states
from trainer.flow import path, sampler
from trainer.flow.condition import keyed_normal
from trainer.flow.target import Quantity

STRAIGHT = path.Linear()
PATHS = [path.LinearConfig(), path.TrigonometricConfig(), path.StochasticInterpolantConfig()]


def deviation(along: path.Path, t: Tensor) -> Tensor:
    """[B, 1] standard deviation of the state at times [B] on the way from N(0, 1) to N(MEAN, STD^2)."""
    c = along.coefficients(t)
    return (c.a**2 + c.g**2 + (c.b * STD) ** 2).sqrt()[:, None]


@dataclass(frozen=True)
class OneStepMap(sampler.Field):
    """What a perfect one-step student estimates: the data with the rank of the state among the states at its time."""

    along: path.Path

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        raise AssertionError(f"a velocity at {t} of {len(x)} states is of no use")

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        assert quantities == ("data",)
        return (MEAN + STD * (x - self.along.coefficients(t).b[:, None] * MEAN) / deviation(self.along, t),)


@each("times", [grid(1), grid(2), torch.tensor([0.0, 0.2, 0.9, 1.0], dtype=torch.float64)])
@each("config", PATHS, ids=lambda one: one.kind)
def test_a_perfect_map_is_drawn_from_in_any_number_of_steps(config, times):
    """Each state has the distribution of the path at its time; what is left of the start is the data's share there."""
    along = config.build()
    x_0, keys = many(20_000)
    drawn = sampler.Renoise().build(along).sample(OneStepMap(along), x_0, times, keys=keys)
    for x, t in zip(drawn.x[1:], times[1:], strict=True):
        expected = MEAN * float(along.coefficients(t[None]).b)
        assert float(x.mean()) == pytest.approx(expected, abs=0.02)
        assert float(x.std()) == pytest.approx(float(deviation(along, t[None])), rel=0.02)
    kept = torch.corrcoef(torch.cat([x_0, drawn.final], 1).T)[0, 1]
    between = times[1:-1]
    share = along.coefficients(between).b[:, None] * STD / deviation(along, between)
    assert float(kept) == pytest.approx(float(share.prod()), abs=0.03)
    assert drawn.calls == {"network": len(times) - 1}


def test_two_steps_of_an_instantaneous_velocity_are_the_mean_of_the_data_given_a_noised_mean():
    """E[x_1 | x_0] = m; then x_t = (1 - t) z + t m, and E[x_1 | x_t] = m + t s^2 (1 - t) z / ((1 - t)^2 + t^2 s^2)."""
    t, times = 0.4, torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    x_0 = torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = sampler.Renoise().build(STRAIGHT).sample(known(gaussian(MEAN, STD)), x_0, times, keys=KEYS)
    z = keyed_normal(x_0, KEYS, 0)
    torch.testing.assert_close(drawn.x[1], (1 - t) * z + t * MEAN)
    gain = t * STD**2 / ((1 - t) ** 2 + t**2 * STD**2)
    torch.testing.assert_close(drawn.final, MEAN + gain * (1 - t) * z)


@pytest.mark.parametrize("velocity", [growth, gaussian(1.0, 0.5)])
def test_one_step_is_eulers(velocity):
    """Bit for bit up to the rounding of the conversion, and without a draw."""
    renoised = sampler.Renoise().build(STRAIGHT).sample(known(velocity), states(), grid(1), keys=KEYS)
    euler = sampler.Euler().sample(velocity, states(), grid(1))
    torch.testing.assert_close(renoised.x, euler.x, rtol=1e-14, atol=1e-14)
    assert torch.equal(
        renoised.x, sampler.Renoise().build(STRAIGHT).sample(known(velocity), states(), grid(1), keys=KEYS + 1).x
    )


def test_keys_decide_the_noise():
    draw = sampler.Renoise(steps=3).build(STRAIGHT).sample
    with pytest.raises(ValueError, match=r"^keys: None"):
        draw(known(growth), states(), grid(3))
    one, same, other = (draw(known(growth), states(), grid(3), keys=keys).x for keys in (KEYS, KEYS, KEYS + 1))
    assert torch.equal(one, same)
    assert not torch.equal(one[1:], other[1:])
