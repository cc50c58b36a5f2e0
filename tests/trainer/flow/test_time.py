import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from tests.each import each
from tests.trainer.flow.unions import members, name
from trainer.flow import time

samplers = each("config", members(time.Config), ids=name)


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
    t = draw(time.LogitNormal(mean=mean, std=std), 20_000, dtype=torch.float64)
    assert stats.kstest(torch.logit(t).numpy(), "norm", args=(mean, std)).pvalue > 0.01


def test_a_narrow_logit_normal_is_one_time():
    t = draw(time.LogitNormal(mean=0.7, std=1e-6), 100, dtype=torch.float64)
    torch.testing.assert_close(t, torch.full_like(t, 1 / (1 + math.exp(-0.7))), rtol=0, atol=1e-5)


@each("values", [{"std": 0.0}, {"std": math.inf}, {"mean": math.nan}, {"sigma": 1.0}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ValidationError):
        time.LogitNormal(**values)


@pytest.mark.parametrize("margin", [0.0, 1e-3, 0.4])
def test_clipped_times_are_the_others_within_the_margins(margin):
    within = time.LogitNormal(mean=0.3, std=0.8)
    t = draw(time.Clipped(margin=margin, within=within), 5_000, dtype=torch.float64)
    assert float(t.min()) >= margin
    assert float(t.max()) <= 1 - margin
    back = (t - margin) / (1 - 2 * margin)
    torch.testing.assert_close(back, draw(within, 5_000, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_grid_times_are_where_so_many_steps_begin(steps):
    t = draw(time.Grid(steps=steps), 6_000, dtype=torch.float64)
    numbers, counts = (t * steps).unique(return_counts=True)
    assert numbers.tolist() == list(range(steps))
    assert stats.chisquare(counts.numpy()).pvalue > 0.01 or steps == 1


@each(("size", "segments"), [(12, 6), (16, 6), (5, 1), (3, 6)])
def test_stratified_times_are_shared_out_evenly(size, segments):
    t = draw(time.Stratified(segments=segments), size)
    counts = (t * segments).long().bincount(minlength=segments).tolist()
    assert counts == [size // segments + (segment < size % segments) for segment in range(segments)]


def test_stratified_times_are_uniform_within_a_segment():
    t = draw(time.Stratified(segments=4), 20_000, dtype=torch.float64)
    assert stats.kstest((4 * t % 1).numpy(), "uniform").pvalue > 0.01


def test_one_segment_is_uniform():
    assert torch.equal(draw(time.Stratified(segments=1), 100), draw(time.Uniform(), 100))


@each(
    "values",
    [
        {"kind": "clipped", "margin": 0.5},
        {"kind": "clipped", "within": {"kind": "clipped"}},
        {"kind": "grid", "steps": 0},
        {"kind": "stratified", "segments": 0},
    ],
)
def test_wrong_settings_of_the_others_are_refused(values):
    with pytest.raises(ValidationError):
        TypeAdapter(time.Config).validate_python(values)
