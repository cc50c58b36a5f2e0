import math

import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from tests.trainer.flow.unions import members, name
from trainer.flow import time

samplers = pytest.mark.parametrize("config", members(time.Config), ids=name)


def draw(sampler: time.TimeSampler, size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return sampler.sample(size, generator=torch.Generator().manual_seed(seed), device="cpu", dtype=dtype)


@samplers
def test_times_lie_on_the_path(config):
    t = draw(time.build(config()), 10_000)
    assert t.shape == (10_000,)
    assert t.dtype == torch.float32
    assert float(t.min()) >= 0
    assert float(t.max()) <= 1


@samplers
def test_the_generator_decides_everything(config):
    sampler = time.build(config())
    assert torch.equal(draw(sampler, 32, seed=1), draw(sampler, 32, seed=1))
    assert not torch.equal(draw(sampler, 32, seed=1), draw(sampler, 32, seed=2))
    assert draw(sampler, 32, dtype=torch.float64).dtype == torch.float64


def test_uniform_times_are_uniform():
    assert stats.kstest(draw(time.Uniform(), 20_000).numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.2, 0.4), (2.0, 1.5)])
def test_logits_are_normal(mean, std):
    t = draw(time.LogitNormal(mean, std), 20_000, dtype=torch.float64)
    assert stats.kstest(torch.logit(t).numpy(), "norm", args=(mean, std)).pvalue > 0.01


def test_a_narrow_logit_normal_is_one_time():
    t = draw(time.LogitNormal(0.7, 1e-6), 100, dtype=torch.float64)
    torch.testing.assert_close(t, torch.full_like(t, 1 / (1 + math.exp(-0.7))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("values", [{"std": 0.0}, {"std": math.inf}, {"mean": math.nan}, {"sigma": 1.0}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ValidationError):
        time.LogitNormalConfig(**values)
