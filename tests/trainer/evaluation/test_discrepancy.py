"""Distances between sets against closed forms, sums over pairs, scipy and POT."""

import json
import math
from itertools import product
from typing import Any

import numpy as np
import ot
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from tests.each import each
from trainer.evaluation.judgement import distances, judge
from trainer.evaluation.quality import energy_distance, frechet_distance, maximum_mean_discrepancy

RNG = np.random.default_rng(0)


def mean_over_pairs(x: Any, y: Any, value: Any) -> float:
    """Over all pairs, or over those of different points where both sets are one."""
    pairs = product(range(len(x)), range(len(y)))
    return float(np.mean([value(x[i], y[j]) for i, j in pairs if x is not y or i != j]))


def by_pairs(x: Any, y: Any, value: Any) -> float:
    return mean_over_pairs(x, x, value) + mean_over_pairs(y, y, value) - 2 * mean_over_pairs(x, y, value)


def test_both_are_sums_over_pairs() -> None:
    x, y = RNG.normal(size=(14, 2, 2)), RNG.normal(size=(9, 2, 2)) + 0.5

    def kernel(p: Any, q: Any) -> float:
        square = float(np.square(p - q).sum())
        return (math.exp(-square / (2 * 0.7**2)) + math.exp(-square / (2 * 2.0**2))) / 2

    assert energy_distance(x, y) == pytest.approx(-by_pairs(x, y, lambda p, q: float(np.linalg.norm(p - q))))
    assert maximum_mean_discrepancy(x, y, (0.7, 2.0)) == pytest.approx(by_pairs(x, y, kernel))


def test_energy_distance_is_that_of_scipy_but_for_the_bias() -> None:
    x, y = RNG.normal(size=40), RNG.normal(size=55) * 2 + 1
    bias = sum(np.abs(points[:, None] - points).mean() / (len(points) - 1) for points in (x, y))
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(stats.energy_distance(x, y) ** 2 - bias)


def test_both_meet_the_closed_forms_of_gaussians() -> None:
    """E k(X, Y) = s / sqrt(s^2 + 2) exp(-m^2 / (2 (s^2 + 2))); E|X - Y| is the mean of a folded Gaussian."""
    shift, width = 1.5, 0.8
    x = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]  # quantiles, so that no chance is left
    y = x + shift
    same = width / math.sqrt(width**2 + 2)
    mmd = 2 * same * (1 - math.exp(-(shift**2) / (2 * (width**2 + 2))))
    assert maximum_mean_discrepancy(x, y, (width,)) == pytest.approx(mmd, abs=2e-3)
    folded = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    assert energy_distance(x, y) == pytest.approx(2 * folded - 4 / math.sqrt(math.pi), abs=5e-3)


def test_neither_is_biased() -> None:
    """Over many pairs of small sets from one distribution the mean is 0, within four standard errors."""
    sets = [(RNG.normal(size=(6, 2)), RNG.normal(size=(5, 2))) for _ in range(400)]
    for measure in (energy_distance, lambda x, y: maximum_mean_discrepancy(x, y, (1.0,))):
        values = [measure(x, y) for x, y in sets]
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_the_default_bandwidth_is_the_median_distance() -> None:
    x, y = RNG.normal(size=(20, 3)), RNG.normal(size=(31, 3))
    both = np.concatenate([x, y])
    median = np.median([np.linalg.norm(both[i] - both[j]) for i in range(51) for j in range(i)])
    assert maximum_mean_discrepancy(x, y) == pytest.approx(maximum_mean_discrepancy(x, y, (float(median),)))


def test_the_sliced_distance_on_a_line_is_the_exact_one() -> None:
    x, y = RNG.normal(size=(30, 1)), RNG.normal(size=(30, 1)) * 2 + 1
    exact: Any = ot.emd2(np.full(30, 1 / 30), np.full(30, 1 / 30), ot.dist(x, y))
    assert distances(x, y, seed=0)["sliced_wasserstein"] == pytest.approx(math.sqrt(float(exact)))


def test_real_digits_are_at_the_floor_and_others_above_it() -> None:
    digits = np.asarray(load_digits(return_X_y=True)[0]) / 8 - 1
    order = RNG.permutation(len(digits))
    samples, real = digits[order[:600]], digits[order[600:]]
    figures = judge(samples, real, seed=0)
    near, least = (
        {name.removesuffix(of): value for name, value in figures.items() if name.endswith(of)}
        for of in ("_unguided", "_floor")
    )
    far = distances(samples + 0.3 * RNG.normal(size=samples.shape), real, seed=0)
    for name, value in least.items():
        assert abs(near[name] - value) < 0.2 * (far[name] - value), name


def test_all_figures_of_samples_are_plain_numbers() -> None:
    x, y = RNG.normal(size=(40, 1, 4, 4)), RNG.normal(size=(90, 1, 4, 4))
    figures = judge(x, y, seed=3)
    assert figures == judge(x, y, seed=3)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["frechet_distance_unguided"] == pytest.approx(frechet_distance(x, y))
    assert {name.replace("_floor", "_unguided") for name in figures} == {
        f"{name}_unguided" for name in ("sliced_wasserstein", "mmd", "energy_distance", "frechet_distance")
    }


@each("bandwidths", [(), (0.0,), (1.0, -1.0), (math.inf,)])
def test_bandwidths_must_be_widths(bandwidths: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"^bandwidths: "):
        maximum_mean_discrepancy(np.zeros((4, 1)), np.ones((4, 1)), bandwidths)


def test_points_that_are_all_one_have_no_median() -> None:
    with pytest.raises(ValueError, match="points that differ"):
        maximum_mean_discrepancy(np.zeros((4, 1)), np.zeros((4, 1)))
