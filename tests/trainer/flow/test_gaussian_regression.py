"""All parts of a regression together, on two Gaussians of one dimension.

At a fixed time the least-squares fit of a target on [x, 1] is Cov(target, x) / Var(x) and the matching intercept, and
for every coupling here the second moments of its pairs are known. A sign or a convention that is wrong in a coupling, a
path, a target or a conversion shows in one of the combinations.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.flow.paths import ALL
from tests.trainer.flow.paths import name as path_name
from tests.trainer.flow.unions import members, of_values
from trainer.config.rules.composition import Composition, reasons
from trainer.flow import UNCONDITIONAL, coupling, objective, path, sampler, target
from trainer.flow.coupling import Pairs

MEAN, DEVIATION, CORRELATION, T = 1.5, 0.6, -0.4, 0.35
EPSILON = 4.0


@dataclass(frozen=True)
class Moments:
    """Means [2] and covariances [2, 2] of a source and its data point, and how far batches may be from them."""

    mean: Tensor
    covariance: Tensor
    bias: float = 0.0


@dataclass(frozen=True)
class Case:
    """A coupling, the size and number of its batches, and the law that it should have."""

    config: coupling.Config
    moments: Moments
    batch: int = 2000
    batches: int = 100


def moments(covariance: float, *, bias: float = 0.0) -> Moments:
    values = [[1, covariance], [covariance, DEVIATION**2]]
    return Moments(torch.tensor([0, MEAN]).double(), torch.tensor(values).double(), bias)


def entropic() -> float:
    """Covariance under the plan of least mean of |x - y|^2 + entropy of the given strength, in units of the mean cost.

    Its density is the product of functions of x and of y, and exp(2 x y / strength): the inverse of its covariance
    matrix has -2 / strength beside the diagonal.
    """
    strength = 0.2 * (1 + DEVIATION**2 + MEAN**2)
    return strength / 4 * (math.sqrt(1 + 16 * DEVIATION**2 / strength**2) - 1)


def tilted() -> Moments:
    """Independent Gaussians times exp(-|x - y|^2 / epsilon)."""
    attraction = 2 / EPSILON * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    covariance = (torch.tensor([1, 1 / DEVIATION**2]).double().diag() + attraction).inverse()
    return Moments(covariance @ torch.tensor([0, MEAN / DEVIATION**2]).double(), covariance)


def nearest(k: int) -> Moments:
    """By another draw of the same law, in numpy."""
    generator = np.random.default_rng(5)
    data = MEAN + DEVIATION * generator.normal(size=(400_000, 1))
    noise = generator.normal(size=(400_000, k))
    chosen = np.take_along_axis(noise, np.abs(noise - data).argmin(1)[:, None], 1)
    both = np.concatenate([chosen, data], 1)
    return Moments(torch.from_numpy(both.mean(0)), torch.from_numpy(np.cov(both.T)), bias=0.01)


CASES = {
    "independent": Case(coupling.Independent(), moments(0.0)),
    "paired": Case(coupling.Paired(), moments(CORRELATION * DEVIATION)),
    "minibatch_ot, exact": Case(coupling.MinibatchOT(), moments(DEVIATION, bias=0.02), batch=300, batches=100),
    "minibatch_ot, sinkhorn": Case(
        coupling.MinibatchOT(solver="sinkhorn", epsilon=0.2, unit="mean"),
        moments(entropic(), bias=0.02),
        batch=500,
        batches=40,
    ),
    "minibatch_ot, unbalanced at a high price": Case(
        coupling.MinibatchOT(solver="unbalanced", epsilon=0.2, marginal_weight=1e3, unit="mean"),
        moments(entropic(), bias=0.02),
        batch=500,
        batches=40,
    ),
    "gibbs_weighted": Case(coupling.GibbsWeighted(cost="sqeuclidean", epsilon=EPSILON), tilted()),
    "knn": Case(coupling.KNN(k=4), nearest(4)),
}
UNKNOWN = {
    "assignment": "in one dimension many assignments have the least sum of distances",
    "ends": "its source points lie between two ends; its laws are in test_ends",
    "encoded": "its source points are made by a network; their laws are in test_encoded",
    "symmetric": "its states have a label beside the data; its laws are in test_symmetric",
}

every = pytest.mark.parametrize(
    ("name", "along"),
    [
        pytest.param(name, along, id=f"{path_name(along)}-{name}")
        for number, along in enumerate(ALL)
        for place, name in enumerate(CASES)
        if name == "independent" or number % len(CASES) in (0, place)
    ],
)
"""Independent pairs on every path, every coupling on the first, and one more coupling on each other."""


@cache
def drawn(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Source points, data points [N, 1] and weights [N] of mean 1, from all batches."""
    case, generator = CASES[name], torch.Generator().manual_seed(3)
    built, parts = coupling.build(case.config), []
    for _ in range(case.batches):
        x_0 = None
        x_1 = torch.randn(case.batch, 1, generator=generator)
        if isinstance(case.config, coupling.Paired):
            other = torch.randn(case.batch, 1, generator=generator)
            x_0 = CORRELATION * x_1 + math.sqrt(1 - CORRELATION**2) * other
        pairs = built.draw(MEAN + DEVIATION * x_1, UNCONDITIONAL, x_0=x_0, generator=generator)
        logs = torch.zeros(case.batch) if pairs.log_weight is None else pairs.log_weight
        parts.append((pairs.x_0.double(), pairs.x_1.double(), logs.double()))
    x_0, x_1, logs = (torch.cat(values) for values in zip(*parts, strict=True))
    return x_0, x_1, logs.softmax(0) * len(logs)


def composed(name: str, along: path.Config, predicted: target.Config) -> Composition:
    return Composition(CASES[name].config, along, predicted, objective.Regression(), sampler.Euler())


def asked(c: path.Coefficients, own_noise: bool) -> dict[str, Tensor]:
    """Every quantity as weights of source, data and the path's own noise, [3]."""
    a, b, g, da, db, dg = (float(value) for value in (c.a, c.b, c.g, c.da, c.db, c.dg))
    noise = [0, 0, 1] if own_noise else [1, 0, 0]
    strength = g if own_noise else a
    rows = {
        "state": [a, b, g],
        "velocity": [da, db, dg],
        "data": [0, 1, 0],
        "noise": noise,
        "score": [-value / strength for value in noise],
        "v_prediction": [b, -a, 0],
    }
    return {quantity: torch.tensor(row, dtype=torch.float64) for quantity, row in rows.items()}


def line(known: Moments, quantity: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of the best linear guess at a quantity from the state, both weights [3] of (x_0, x_1, z)."""
    mean = torch.cat([known.mean, torch.zeros(1, dtype=torch.float64)])
    covariance = torch.block_diag(known.covariance, torch.ones(1, 1, dtype=torch.float64))
    slope = (quantity @ covariance @ state) / (state @ covariance @ state)
    return slope, (quantity - slope * state) @ mean


def test_every_coupling_is_tried():
    kinds = {member.model_fields["kind"].default for member in members(coupling.Config)}
    assert kinds == {case.config.kind for case in CASES.values()} | set(UNKNOWN)


@every
def test_the_regression_finds_the_closed_form(name, along):
    x_0, x_1, weight = drawn(name)
    built, known = along.build(), CASES[name].moments
    t = torch.full((len(x_0),), T, dtype=torch.float64)
    sample = built.sample(Pairs(x_0, x_1), t, generator=torch.Generator().manual_seed(4))
    exact = asked(built.coefficients(t[:1]), built.has_noise)
    columns = torch.cat([sample.x_t, torch.ones_like(sample.x_t)], dim=1)
    weighted, tried = columns * weight[:, None], 0
    for predicted in (member() for member in of_values(target.Config)):
        if any(reasons(composed(name, along, predicted))):
            continue
        tried += 1
        told = predicted.build(built)
        made = told.make(sample)
        found = torch.linalg.solve(weighted.T @ columns, weighted.T @ made)
        places = (sample.x_t.mean() + sample.x_t.std() * torch.tensor([-1.0, 0.0, 1.0])).double()
        for quantity, fitted, wanted in zip(told.quantities, found.unbind(1), made.unbind(1), strict=True):
            slope, intercept = line(known, exact[quantity], exact["state"])
            rest = weight * (wanted - columns @ fitted)
            allowed = 6 * float(rest.std()) / math.sqrt(len(rest)) + known.bias * float(exact[quantity].norm())
            away = (fitted[0] - slope) * places + fitted[1] - intercept
            assert float(away.abs().max()) < allowed + 1e-9
    assert tried or CASES[name].config.kind != "independent"
