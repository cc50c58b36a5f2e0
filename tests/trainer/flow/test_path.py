import pytest
import torch

from tests.trainer.flow.unions import members, name
from trainer.flow import path
from trainer.flow.coupling import Pairs

paths = pytest.mark.parametrize("config", members(path.Config), ids=name)
H = 1e-6


def pairs(size: int = 7) -> Pairs:
    x_0, x_1 = torch.randn(2, size, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Pairs(x_0, x_1)


def at(config: type, t: torch.Tensor) -> path.PathSample:
    return path.build(config()).sample(pairs(len(t)), t, generator=torch.Generator().manual_seed(1))


def inside(size: int = 7) -> torch.Tensor:
    return torch.linspace(0.05, 0.95, size, dtype=torch.float64)


@paths
def test_the_path_starts_at_the_source_and_ends_at_the_data(config):
    zeros = torch.zeros(7, dtype=torch.float64)
    torch.testing.assert_close(at(config, zeros).x_t, pairs().x_0, rtol=0, atol=0)
    torch.testing.assert_close(at(config, zeros + 1).x_t, pairs().x_1, rtol=0, atol=0)


@paths
def test_velocity_is_the_derivative_of_the_point(config):
    difference = (at(config, inside() + H).x_t - at(config, inside() - H).x_t) / (2 * H)
    torch.testing.assert_close(at(config, inside()).velocity, difference, rtol=1e-7, atol=1e-8)


@paths
def test_coefficients_rebuild_point_and_velocity(config):
    sample = at(config, inside())
    c = path.build(config()).coefficients(inside()).broadcast(sample.x_t)
    torch.testing.assert_close(c.a * pairs().x_0 + c.b * pairs().x_1 + c.g * sample.noise, sample.x_t)
    torch.testing.assert_close(c.da * pairs().x_0 + c.db * pairs().x_1 + c.dg * sample.noise, sample.velocity)


@paths
def test_coefficient_derivatives_match_finite_differences(config):
    built = path.build(config())
    lower, c, upper = (built.coefficients(inside() + shift) for shift in (-H, 0.0, H))
    for value, derivative in (("a", "da"), ("b", "db"), ("g", "dg")):
        difference = (getattr(upper, value) - getattr(lower, value)) / (2 * H)
        torch.testing.assert_close(getattr(c, derivative), difference, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(c.g_dg, c.g * c.dg)


@paths
def test_the_generator_decides_everything(config):
    first, second = at(config, inside()), at(config, inside())
    assert torch.equal(first.x_t, second.x_t)
    assert torch.equal(first.noise, second.noise)


def test_the_linear_path_is_straight():
    sample = at(path.LinearConfig, inside())
    t = inside().reshape(-1, 1, 1)
    torch.testing.assert_close(sample.x_t, (1 - t) * pairs().x_0 + t * pairs().x_1)
    assert torch.equal(sample.velocity, pairs().x_1 - pairs().x_0)
    assert torch.equal(sample.noise, pairs().x_0)


def test_points_keep_the_precision_of_the_times():
    half = pairs()
    half = Pairs(half.x_0.bfloat16(), half.x_1.bfloat16())
    sample = path.Affine(path.linear).sample(half, inside().float(), generator=torch.Generator())
    assert sample.x_t.dtype == torch.float32
