"""Conversions of conditional means, against the closed form of a Gaussian flow and the derivatives of its density."""

from dataclasses import fields
from typing import get_args

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.flow.paths import ALL, name
from tests.trainer.flow.unions import of_values
from trainer.flow import path, target

MEAN, STD = 1.5, 0.6
QUANTITIES: tuple[target.Quantity, ...] = get_args(target.Quantity)
SCALED: tuple[path.Config, ...] = tuple(
    kind(gamma=path.BrownianConfig(factor=factor))
    for kind in (path.StochasticInterpolantConfig, path.MirrorInterpolantConfig)
    for factor in (1e-8, 1e-6, 1e4)
)
SMOOTH = [one for one in ALL + SCALED if not isinstance(one, path.TabulatedConfig)]
"""Paths that autograd differentiates; on a table test_target converts points."""

Converted = tuple[type[target.Single | target.VelocityAndNoise], target.Quantity]
paths = each("config", SMOOTH, ids=name)


def coefficients(between: path.Path, t: Tensor) -> path.Coefficients:
    c = between.coefficients(t)
    return path.Coefficients(*(getattr(c, field.name).detach() for field in fields(c)))


def means(between: path.Path, x: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Conditional means of every quantity at states x [B, 1], for x_0, z ~ N(0, 1) and x_1 ~ N(MEAN, STD^2).

    Velocity and score are derivatives of the law N(m, V) of the state alone, m = b MEAN and V = a^2 + b^2 STD^2 + g^2:
    the score is the derivative of the log density by the state, and the velocity m' + V' / (2 V) (x - m).
    """
    time, state = t.clone().requires_grad_(), x.clone().requires_grad_()
    c = between.coefficients(time)
    mean, variance = c.b * MEAN, c.a**2 + c.b**2 * STD**2 + c.g**2
    mean, variance = (value if value.requires_grad else value + 0 * time for value in (mean, variance))
    density = torch.distributions.Normal(mean.detach()[:, None], variance.detach().sqrt()[:, None])
    (score,) = torch.autograd.grad(density.log_prob(state).sum(), state)
    (mean_slope,) = torch.autograd.grad(mean.sum(), time, retain_graph=True)
    (slope,) = torch.autograd.grad(variance.sum(), time)
    a, b, g, m, v = (value.detach()[:, None] for value in (c.a, c.b, c.g, mean, variance))
    off = (x - m) / v
    noise, data = (g if between.has_noise else a) * off, MEAN + b * STD**2 * off
    velocity = mean_slope[:, None] + slope[:, None] / 2 * off
    return {"velocity": velocity, "data": data, "noise": noise, "score": score, "v_prediction": b * noise - a * data}


@paths
def test_every_determined_quantity_is_its_conditional_mean(config):
    between = config.build()
    t = torch.tensor([1e-3, 0.04, 0.2, 0.35, 0.47, 0.5, 0.8, 0.96, 0.999], dtype=torch.float64)
    c = coefficients(between, t)
    scale = between.noise_scale
    n = c.g / scale if between.has_noise else c.a
    t = t[(n > 2e-3) & ((c.b > 2e-3) | between.has_source & between.has_noise)]
    x = torch.linspace(-2, 3, len(t), dtype=torch.float64)[:, None]
    exact = means(between, x, t)
    tried = set()
    for member in of_values(target.Config):
        kind = target.class_of(member())
        if kind is target.VPrediction and not between.preserves_variance:
            continue
        built = kind().build(between)
        prediction = torch.cat([exact[quantity] for quantity in kind.quantities], dim=1)
        for to in QUANTITIES:
            if kind.determines(to, between):
                tried.add((kind.__name__, to))
                torch.testing.assert_close(built.convert(prediction, x, t, to), exact[to], rtol=1e-5, atol=1e-7)
            else:
                with pytest.raises(ValueError, match=r"^path: .*; (use|predict) "):
                    built.convert(prediction, x, t, to)
    assert ("Velocity", "velocity") in tried


def exact_at(between: path.Path, end: float) -> list[Converted]:
    """The conversions to which no weight that is 0 at the end is a divisor, and no slope that is infinite a factor."""
    if not between.has_noise:
        infinite = between.starts_as is None and end == 1  # a diffusion's a is a square root there
        return [(target.Velocity, "data"), *([] if infinite else [(target.Velocity, "noise" if end else "score")])]
    if between.has_source:
        return []
    if between.separable:
        return [(target.Velocity, "data"), (target.Velocity, "noise"), (target.VelocityAndNoise, "data")]
    return [
        (target.Score, "velocity"),
        (target.Score, "data"),
        (target.Noise, "data"),
        (target.VelocityAndNoise, "data"),
    ]


@each("end", [0.0, 1.0])
@each("config", [one for one in SMOOTH if exact_at(one.build(), 0.0)], ids=name)
def test_conversions_are_exact_at_the_ends(config, end):
    """The conditional means there are the limits of those inside."""
    between, x = config.build(), torch.tensor([[0.7]], dtype=torch.float64)
    exact = means(between, x, torch.tensor([abs(end - 1e-9)], dtype=torch.float64))
    for kind, to in exact_at(between, end):
        prediction = torch.cat([exact[quantity] for quantity in kind.quantities], dim=1)
        converted = kind().build(between).convert(prediction, x, torch.tensor([end], dtype=torch.float64), to)
        torch.testing.assert_close(converted, exact[to], rtol=1e-4, atol=1e-4)


@paths
def test_a_path_with_noise_refuses_at_its_ends_what_it_refuses_inside(config):
    between, x = config.build(), torch.ones(3, 1, dtype=torch.float64)
    for member in of_values(target.Config):
        kind = target.class_of(member())
        if kind is target.VPrediction:
            continue
        prediction = torch.ones(3, kind.num_fields, dtype=torch.float64)
        for to in QUANTITIES:
            if kind.determines(to, between):
                continue
            for time in (0.0, 0.5, 1.0):
                with pytest.raises(ValueError, match=r"^path: "):
                    kind().build(between).convert(prediction, x, torch.full((3,), time, dtype=torch.float64), to)
