from dataclasses import fields

import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from tests.each import each, rows
from tests.trainer.flow.paths import AFFINE, ALL, NOISY, name
from tests.trainer.flow.unions import of_values
from trainer.flow import path
from trainer.flow.coupling import Pairs

paths = each("config", ALL, ids=name)
noisy = each("config", NOISY, ids=name)
affine = each("config", AFFINE, ids=name)
H = 1e-6
REST = {"variance_preserving": 0.2, "diffusion_steps": 0.1}
"""Share of the data that is left at the source, at most."""


def pairs(size: int = 7) -> Pairs:
    x_0, x_1 = torch.randn(2, size, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Pairs(x_0, x_1)


def at(config: path.Config, t: Tensor, between: Pairs | None = None) -> path.PathSample:
    generator = torch.Generator().manual_seed(1)
    return config.build().sample(between or pairs(len(t)), t, generator=generator)


def inside(size: int = 7) -> Tensor:
    return torch.linspace(0.0437, 0.9371, size, dtype=torch.float64)


def test_every_kind_is_tested():
    assert {type(config) for config in ALL} == set(of_values(path.Config))


@paths
def test_the_path_starts_at_the_source_and_ends_at_the_data(config):
    zeros = torch.zeros(7, dtype=torch.float64)
    start, end = at(config, zeros), at(config, zeros + 1)
    source = {"mirror_interpolant": pairs().x_1, "one_sided_interpolant": start.noise}.get(config.kind, pairs().x_0)
    rest = REST.get(config.kind, 0.0)
    torch.testing.assert_close(start.x_t, source, rtol=0, atol=rest * float(pairs().x_1.abs().max()))
    left = getattr(config, "sigma_min", 0.0) * pairs().x_0
    torch.testing.assert_close(end.x_t, pairs().x_1 + left, rtol=0, atol=0 if config == path.LinearConfig() else 1e-15)


@paths
def test_velocity_is_the_derivative_of_the_point_with_the_noise_held_fixed(config):
    lower, upper = at(config, inside() - H), at(config, inside() + H)
    assert torch.equal(lower.noise, upper.noise)
    difference = (upper.x_t - lower.x_t) / (2 * H)
    torch.testing.assert_close(at(config, inside()).velocity, difference, rtol=1e-7, atol=1e-7)


@paths
def test_coefficients_rebuild_point_and_velocity(config):
    sample = at(config, inside())
    c = config.build().coefficients(inside()).broadcast(sample.x_t)
    torch.testing.assert_close(c.a * pairs().x_0 + c.b * pairs().x_1 + c.g * sample.noise, sample.x_t)
    torch.testing.assert_close(c.da * pairs().x_0 + c.db * pairs().x_1 + c.dg * sample.noise, sample.velocity)
    torch.testing.assert_close(c.g_dg, c.g * c.dg)


@paths
@each("dtype", [torch.float32, torch.float64])
def test_everything_stays_finite_up_to_the_ends(config, dtype):
    t = torch.tensor([0.0, 1e-12, 1e-6, 1 - 1e-6, 1.0], dtype=dtype)
    c = config.build().coefficients(t)
    for field in fields(c):
        value = getattr(c, field.name)
        assert value.dtype == dtype
        assert bool(value.isfinite().all())
    sample = at(config, t)
    assert bool(sample.x_t.isfinite().all())
    assert bool(sample.velocity.isfinite().all())


@paths
def test_the_generator_decides_everything(config):
    first, second = at(config, inside()), at(config, inside())
    assert torch.equal(first.x_t, second.x_t)
    assert torch.equal(first.noise, second.noise)


@affine
def test_a_path_without_noise_of_its_own_draws_nothing(config):
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    sample = config.build().sample(pairs(), inside(), generator=generator)
    assert torch.equal(before, generator.get_state())
    assert sample.mirror is None
    assert torch.equal(sample.noise, pairs().x_0)


@noisy
def test_the_mirror_has_the_noise_reversed(config):
    sample = at(config, inside())
    mirror = sample.mirror
    assert mirror is not None
    assert torch.equal(mirror.noise, -sample.noise)
    c = config.build().coefficients(inside()).broadcast(sample.x_t)
    torch.testing.assert_close((sample.x_t + mirror.x_t) / 2, c.a * pairs().x_0 + c.b * pairs().x_1)
    torch.testing.assert_close((sample.velocity + mirror.velocity) / 2, c.da * pairs().x_0 + c.db * pairs().x_1)


@noisy
def test_the_noise_is_fresh_and_standard_normal(config):
    nothing = torch.zeros(20_000, 2, dtype=torch.float64)
    t = torch.full((20_000,), 0.3, dtype=torch.float64)
    sample = at(config, t, Pairs(nothing, nothing))
    strength = float(config.build().coefficients(t[:1]).g)
    assert strength > 0
    assert float(sample.x_t.std()) == pytest.approx(strength, rel=0.02)


@affine
def test_a_pair_with_an_interval_passes_through_both_points_with_constant_noise(config):
    built = config.build()
    start, end = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    interval = torch.stack([start, end]).expand(7, 2)
    segment = Pairs(at(config, start.expand(7)).x_t, at(config, end.expand(7)).x_t, interval=interval)
    for t in (start, (start + end) / 2, end):
        sample, whole = at(config, t.expand(7), segment), at(config, t.expand(7))
        for part in ("x_t", "velocity", "noise", "x_0", "x_1"):
            torch.testing.assert_close(getattr(sample, part), getattr(whole, part))
    c_t, c_e = (built.coefficients(t.expand(7)).broadcast(segment.x_0) for t in (start, end))
    step = (c_e.b / c_t.b) * segment.x_0 + (c_e.a - c_t.a * c_e.b / c_t.b) * at(config, start.expand(7), segment).noise
    torch.testing.assert_close(step, segment.x_1)


@noisy
def test_a_path_with_noise_of_its_own_refuses_intervals(config):
    segment = Pairs(pairs().x_0, pairs().x_1, interval=torch.tensor([[0.2, 0.7]]).expand(7, 2))
    with pytest.raises(ValueError, match=r"pairs.interval: .*; use an affine path"):
        at(config, inside(), segment)


@each("config", [config for config in AFFINE if config.kind in ("trigonometric", *REST)], ids=name)
def test_the_squares_of_the_weights_sum_to_one(config):
    c = config.build().coefficients(torch.linspace(0, 1, 201, dtype=torch.float64))
    torch.testing.assert_close(c.a**2 + c.b**2, torch.ones(201, dtype=torch.float64))


def test_diffusion_steps_hit_the_products_of_the_alphas():
    config = path.DiffusionStepsConfig(num_steps=50)
    alphas = 1 - torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    t = 1 - torch.arange(1, 51, dtype=torch.float64) / 50
    torch.testing.assert_close(config.build().coefficients(t).b ** 2, alphas.cumprod(0))


def test_points_keep_the_precision_of_the_times():
    half = pairs()
    half = Pairs(half.x_0.bfloat16(), half.x_1.bfloat16())
    sample = path.Affine(path.linear).sample(half, inside().float(), generator=torch.Generator())
    assert sample.x_t.dtype == torch.float32


WRONG = rows("""
{kind: linear, sigma_min: 1.0} | less than 1
{kind: variance_preserving, beta_min: 2.0, beta_max: 1.0} | exchange them
{kind: diffusion_steps, beta_end: 1.0} | less than 1
{kind: stochastic_interpolant, interpolation: trigonometric, gamma: {kind: brownian, factor: 4.0}} | use less than 4
{kind: stochastic_interpolant, interpolation: trigonometric, gamma: {kind: sine_squared}}
| use one of brownian, quadratic, zero
{kind: stochastic_interpolant, interpolation: encoding_decoding, gamma: {kind: zero}}
| use one of brownian, quadratic, sine_squared
{kind: mirror_interpolant, gamma: {kind: zero}} | never moves
{kind: curved} | 'linear'
""")


@each(("values", "complaint"), WRONG)
def test_wrong_settings_are_refused(values, complaint):
    with pytest.raises(ValidationError, match=complaint):
        TypeAdapter(path.Config).validate_python(yaml.safe_load(values))
