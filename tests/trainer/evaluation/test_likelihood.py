import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.flow.test_sampler import gaussian, grid, growth
from trainer.evaluation.likelihood import bits_per_dimension, log_density, random_signs
from trainer.flow.sampler import Dopri5, Field, Heun, Segmented

EXACT = Dopri5(rtol=1e-9, atol=1e-9)


def points(size: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(size, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def net(values: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(values + 1, 16), nn.Tanh(), nn.Linear(16, values)).double()


def learned(values: int):
    layers = net(values)
    return lambda x, t: layers(torch.cat([x, t[:, None]], dim=1))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
def test_a_flow_between_gaussians_has_the_density_of_its_end(mean, std):
    x_1 = mean + std * points(50, 2)
    normal = torch.distributions.Normal(mean, std)
    truth = normal.log_prob(x_1).sum(1)
    found = log_density(gaussian(mean, std), x_1, EXACT, grid(1))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)
    by_heun = log_density(gaussian(mean, std), x_1, Heun(), grid(200))
    torch.testing.assert_close(by_heun, truth, rtol=0, atol=2e-3)


def test_growth_spreads_the_density():
    """dx/dt = (1 + cos t) x multiplies by exp(1 + sin 1), whatever the shape of an example."""
    x_1 = points(6, 2, 3, 1)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return growth(x.flatten(1), t).reshape(x.shape)

    scale = math.exp(1 + math.sin(1))
    truth = torch.distributions.Normal(0.0, scale).log_prob(x_1).flatten(1).sum(1)
    torch.testing.assert_close(log_density(field, x_1, EXACT, grid(1)), truth, rtol=0, atol=1e-5)


class Jumping:
    """dx/dt = rate x, with another rate in each segment of time."""

    def __init__(self, rates: tuple[float, ...], segment: int | None = None) -> None:
        self.rates, self.segment = rates, segment

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert self.segment is not None, "which segment an edge belongs to cannot be read off a time"
        assert bool(((t * len(self.rates) - self.segment - 0.5).abs() <= 0.5 + 1e-9).all())
        return self.rates[self.segment] * x

    def within(self, segment: int) -> Field:
        return cast(Field, Jumping(self.rates, segment))


@pytest.mark.parametrize("inner", [EXACT, Heun()])
def test_each_side_of_a_jump_between_segments_is_followed_by_itself(inner: Dopri5 | Heun) -> None:
    x_1, rates = points(20, 2), (1.5, -2.0, 0.7)
    truth = torch.distributions.Normal(0.0, math.exp(sum(rates) / 3)).log_prob(x_1).sum(1)
    found = log_density(Jumping(rates), x_1, Segmented(segments=3, within=inner), grid(100))
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-7 if inner is EXACT else 1e-3)


def test_the_density_of_a_learned_field_integrates_to_one():
    side = torch.linspace(-6, 6, 121, dtype=torch.float64)
    plane = torch.cartesian_prod(side, side)
    density = log_density(learned(2), plane, Heun(), grid(40)).exp()
    assert float(density.sum() * 0.1**2) == pytest.approx(1, abs=1e-3)


def test_it_agrees_with_flow_matching():
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    field = learned(3)

    class Wrapped(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **_) -> Tensor:
            return field(x, t.expand(len(x)))

    x_1 = points(20, 3, seed=2)
    log_p_0 = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3).double(), 1.0), 1).log_prob
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    _, theirs = ODESolver(Wrapped(nn.Identity())).compute_likelihood(
        x_1, log_p_0, step_size=None, method="dopri5", atol=1e-9, rtol=1e-9, time_grid=ends, exact_divergence=True
    )
    torch.testing.assert_close(log_density(field, x_1, EXACT, grid(1)), torch.as_tensor(theirs), rtol=0, atol=1e-6)


def test_random_signs_are_unbiased():
    """Their mean is the exact figure within its standard error; for a single value each of them is exact."""
    field, x_1, size = learned(4), points(1, 4, seed=3), 4000
    exact = float(log_density(field, x_1, Heun(), grid(8)))
    many = x_1.expand(size, 4)
    probes = random_signs(1, many, torch.Generator().manual_seed(0))
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    drawn = log_density(field, many, Heun(), grid(8), probes=probes)
    error = float(drawn.std()) / size**0.5
    assert float(drawn.std()) > 0
    assert float(drawn.mean()) == pytest.approx(exact, abs=4 * error)
    fewer = log_density(field, many, Heun(), grid(8), probes=random_signs(8, many, torch.Generator().manual_seed(1)))
    assert float(fewer.std()) < 0.5 * float(drawn.std())
    single = points(5, 1)
    alone = log_density(learned(1), single, EXACT, grid(1))
    probe = random_signs(1, single, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_density(learned(1), single, EXACT, grid(1), probes=probe), alone)


def test_bits_are_what_a_standard_normal_has():
    """Its entropy is log2(2 pi e) / 2 bits a value."""
    x = points(20_000, 3)
    log_densities = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    assert bits_per_dimension(log_densities, 3) == pytest.approx(0.5 * math.log2(math.tau * math.e), abs=0.01)
