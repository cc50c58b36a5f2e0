"""Samplers whose states at the data are independent of those at the source."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from moe.seeds import fold_in
from tests.trainer.flow.test_sampler import gaussian, grid, known
from trainer.config.rules.objection import refuse
from trainer.config.rules.parts import of_composition
from trainer.config.run import RunConfig
from trainer.evaluation.quality import energy_distance
from trainer.flow import path, sampler

MEAN, STD, DEVIATION = 1.0, 0.6, 0.25
CENTRES = 3 * torch.stack([(torch.arange(8) * math.pi / 4).cos(), (torch.arange(8) * math.pi / 4).sin()], 1).double()


def built(steps: int, **diffusion: object) -> tuple[Any, Tensor]:
    config = sampler.EulerMaruyama.model_validate({"steps": steps, "diffusion": {"kind": "memoryless", **diffusion}})
    return config.build(path.LinearConfig().build()), config.grid().double()


def starts(size: int, values: int) -> tuple[Tensor, Tensor]:
    x_0 = torch.randn(size, values, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x_0, fold_in(torch.tensor(0), torch.arange(size))


def eight(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity from N(0, I) to eight Gaussians on a circle of radius 3."""
    t = t.reshape(-1, 1, 1)
    variance, away = (1 - t) ** 2 + (t * DEVIATION) ** 2, x[:, None] - t * CENTRES
    weight = (-away.square().sum(-1, keepdim=True) / (2 * variance)).softmax(1)
    return (weight * (CENTRES + (t * DEVIATION**2 - (1 - t)) / variance * away)).sum(1)


def reached(solver: Any, times: Tensor) -> tuple[float, float, float]:
    """Mean, deviation and what is left of x_0 at the data, for a linear field, whose steps map moments to moments."""
    mean, variance, kept = 0.0, 1.0, 1.0
    for t, t_next in pairwise(times):
        x = torch.tensor([[mean], [mean + 1]], dtype=torch.float64)
        if t_next == 1:
            (at, up), noise = solver.step(known(gaussian(MEAN, STD)), x, t, t_next)[:, 0].tolist(), 0.0
        else:
            moments, std = solver.moments(known(gaussian(MEAN, STD)), x, t, t_next)
            (at, up), noise = moments[:, 0].tolist(), float(std)
        mean, variance, kept = at, (up - at) ** 2 * variance + noise**2, kept * (up - at)
    return mean, math.sqrt(variance), kept


@pytest.mark.parametrize(
    ("diffusion", "steps", "tolerance"),
    [({}, 40, 0.005), ({"floor": 1 / 40}, 40, 0.03), ({"step": "ancestral"}, 800, 0.01)],
)
def test_the_moments_of_a_gaussian_are_those_of_the_ordinary_equation(diffusion, steps, tolerance):
    mean, std, kept = reached(*built(steps, **diffusion))
    assert mean == pytest.approx(MEAN, abs=tolerance * MEAN)
    assert std == pytest.approx(STD, rel=tolerance)
    assert abs(kept) < 5e-3, "what is left of the source"


def test_other_noise_keeps_a_memory_of_the_source():
    assert abs(reached(sampler.EulerMaruyama(diffusion=(0.5, 0.0)), grid(400))[2]) > 0.05


def test_an_ancestral_step_is_the_posterior_where_the_data_are_one_point():
    """From N(t d, (1 - t)^2), whose velocity is (d - x) / (1 - t), to N(t' d, (1 - t')^2), in steps of any length."""
    solver, data = sampler.Ancestral(), 1.7
    field = known(lambda x, t: (data - x) / (1 - t.reshape(-1, 1)))
    for t, t_next in ((0.2, 0.3), (0.01, 0.9)):
        t, t_next = torch.tensor(t).double(), torch.tensor(t_next).double()
        at, up = solver.moments(field, torch.stack([t * data, t * data + 1]).view(2, 1), t, t_next)[0][:, 0]
        std = solver.moments(field, torch.zeros(1, 1).double(), t, t_next)[1]
        assert float(at) == pytest.approx(float(t_next) * data)
        assert float((up - at) ** 2 * (1 - t) ** 2 + std**2) == pytest.approx(float((1 - t_next) ** 2))


def test_without_floor_the_drift_is_the_velocity_and_e_times_the_score():
    """The score of the straight path is (t v - x) / (1 - t); towards the source it has the other sign."""
    field, x = known(gaussian(MEAN, STD)), torch.linspace(-2, 2, 5).double().view(5, 1)
    for t in (0.1, 0.6, 0.95):
        t = torch.tensor(t).double()
        velocity, score = field.estimate(x, t.expand(5), "velocity", "score")
        solver = sampler.Memoryless(diffusion=sampler.MemorylessDiffusion(floor=1e-12))
        for h in (0.01, -0.01):
            drift = solver.drift(field, x, t, torch.tensor(h).double())
            torch.testing.assert_close(drift, velocity + math.copysign((1 - t) / t, h) * score, rtol=1e-8, atol=1e-8)


def test_eight_gaussians_are_those_of_the_ordinary_equation():
    x_0, keys = starts(2000, 2)
    drawn = [
        solver.sample(known(eight), x_0, times, keys=keys).final.numpy()
        for solver, times in (built(60), (sampler.Heun(), grid(60)))
    ]
    assert energy_distance(*drawn) < 0.01
    assert energy_distance(drawn[0], x_0.numpy()) > 0.5


@pytest.mark.parametrize("along", [{"kind": "trigonometric"}, {"kind": "linear", "sigma_min": 0.1}])
def test_only_straight_paths_that_end_at_the_data_are_taken(along):
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "optim": {"steps": 1, "global_batch": 1},
        "flow": {"path": along},
        "sample": {"sampler": {"kind": "euler_maruyama", "diffusion": {"kind": "memoryless"}}},
    }
    with pytest.raises(ValueError, match=r"^sample.sampler.kind: euler_m.*memoryless.*straight path") as refused:
        refuse(of_composition(RunConfig.model_validate(document)))
    assert "\n" not in str(refused.value)


def test_an_ancestral_step_has_no_way_back():
    solver, times = built(4, step="ancestral")
    x_0, keys = starts(3, 1)
    with pytest.raises(ValueError, match=r"^sampler.diffusion.step: ancestral .*; use euler"):
        solver.sample(known(gaussian(MEAN, STD)), x_0, times.flip(0), keys=keys)


def test_the_step_from_the_source_is_ancestral_whatever_the_floor():
    """There the posterior is exact, but for the spread of the data: nothing is left of x_0 and the noise is 1 - t'."""
    x_0, zero, later = starts(4, 1)[0], torch.zeros(()).double(), torch.tensor(0.05).double()
    field = known(gaussian(MEAN, STD))
    for floor in (1e-3, 0.1):
        euler, ancestral = (
            solver.moments(field, x_0, zero, later)
            for solver in (sampler.Memoryless(diffusion=sampler.MemorylessDiffusion(floor=floor)), sampler.Ancestral())
        )
        torch.testing.assert_close(euler, ancestral, rtol=1e-12, atol=1e-12)
