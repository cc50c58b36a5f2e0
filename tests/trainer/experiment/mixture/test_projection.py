"""Fits, distances, projection and pick by themselves."""

import math

import numpy as np
import pytest
import torch

from tests.each import each
from trainer.experiment.mixture.fit import (
    FEATURES,
    Search,
    amplification,
    features_of,
    permitted,
    projections,
    ridge,
    simplex,
)
from trainer.experiment.mixture.pilots import MOST, Points, figure, logarithm, mixed, transport_distance


def test_left_out_errors_are_those_of_fits_without_each_mix() -> None:
    """The reference fits again without the mix, with the same shift, scale and mean penalty."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    fit, errors = ridge(x, y, 0.1)
    scaled = (x - x.mean(0)) / x.std(0)
    for left_out in range(12):
        seen = np.arange(12) != left_out
        design = np.concatenate([np.ones((11, 1)), scaled[seen]], axis=1)
        penalty = np.diag([0.0, 1.2, 1.2, 1.2])
        found = np.linalg.solve(design.T @ design + penalty, design.T @ y[seen])
        assert errors[left_out] == pytest.approx(y[left_out] - found[0] - scaled[left_out] @ found[1:])
    assert fit.at(x).mean() == pytest.approx(y.mean())


@each("name", FEATURES)
def test_a_measure_that_is_linear_in_features_and_in_the_logarithm_of_the_size_is_projected_exactly(name: str) -> None:
    mixes = np.array(simplex(8, 3))
    rng = np.random.default_rng(1)
    distance = rng.random(len(mixes))
    features = features_of(name, mixes, distance)
    start, slope = (rng.normal(size=features.shape[1]) for _ in range(2))

    def at(size: int) -> np.ndarray:
        return 1 + features @ start + math.log(size) * (features @ slope - 2)

    fits = projections(mixes, np.stack([distance] * 2), np.stack([at(50), at(150)]), (50, 150))
    exact = next(one for one in fits if one.features == name)
    assert exact.error < 1e-2
    assert exact.at(mixes, np.stack([distance] * 2), 1000) == pytest.approx(at(1000), abs=2e-3)
    assert exact.at(mixes, np.stack([distance] * 2), 150) == pytest.approx(at(150), abs=1e-3)


def test_permuted_sources_have_the_same_projections() -> None:
    """Of the smallest model; larger ones drop the last share."""
    mixes, rng = simplex(5, 3), np.random.default_rng(2)
    distances, values = rng.random((2, 21)), rng.random((2, 21))
    fit = projections(np.array(mixes), distances, values, (10, 20))
    other = projections(np.array(mixes)[:, [2, 0, 1]], distances, values, (10, 20))
    one, two = (next(each for each in found if each.features == "distance") for found in (fit, other))
    assert (one.at(np.array(mixes), distances, 40) == two.at(np.array(mixes), distances, 40)).all()
    assert one.error == two.error


def test_mixes_for_each_parameter_and_amplification() -> None:
    assert permitted(5, 2) == []
    assert permitted(6, 3) == ["distance"]
    assert permitted(21, 3) == ["distance", "distance and shares", "shares times distance"]
    assert permitted(24, 3) == list(FEATURES)
    assert amplification((100, 200), 800) == pytest.approx(5)
    assert amplification((1000, 1500), 10_000) > 10


def test_an_accuracy_stays_below_one_and_comes_back() -> None:
    values = np.array([0.2, 0.9, 1.0])
    logarithms = logarithm("class_accuracy", values, 50)
    assert figure("class_accuracy", logarithms) == pytest.approx([0.2, 0.9, 0.99])
    assert (figure("class_accuracy", logarithms - 3) < 1).all()
    assert figure("held_out_loss", logarithm("held_out_loss", values, 50)) == pytest.approx(values)
    with pytest.raises(ValueError, match=r"^--measure: held_out_loss is -1 of a pilot, and only figures above 0 have"):
        logarithm("held_out_loss", np.array([-1.0, 2.0]), 50)


def test_mixes_of_a_simplex() -> None:
    assert simplex(2, 3)[:3] == [(1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5)]
    assert len(simplex(5, 3)) == 21
    assert all(sum(mix) == pytest.approx(1) for mix in simplex(7, 4))


def points(num: int, seed: int, *, shift: float = 0.0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=generator)
    return Points(torch.randn(num, 4, generator=generator) + shift, labels)


def test_distance_is_zero_to_itself_grows_with_a_shift_and_with_wrong_labels_and_has_no_unit() -> None:
    one = points(60, 0)
    assert transport_distance(one, one) == pytest.approx(0, abs=1e-12)
    shifted = Points(one.features + 0.5, one.labels)
    scale = 2 * float(one.features.double().var(dim=0, correction=0).sum())
    assert transport_distance(shifted, one) == pytest.approx(4 * 0.25 / scale)
    assert one.labels is not None
    wrong = Points(one.features, (one.labels + 1) % 3)
    assert 0 < transport_distance(wrong, one) <= 1
    assert transport_distance(Points(one.features, None), one) == pytest.approx(0, abs=1e-12)
    larger = [Points(10 * each.features, each.labels) for each in (shifted, one)]
    assert transport_distance(*larger) == pytest.approx(transport_distance(shifted, one))


def test_a_mix_takes_the_first_of_each_source_in_its_ratio() -> None:
    sources = [points(2000, 1), points(2000, 2)]
    taken = mixed(sources, (0.25, 0.75), 8)
    assert torch.equal(taken.features, torch.cat([sources[0].features[:2], sources[1].features[:6]]))
    assert len(mixed(sources, (0.25, 0.75), 4000).features) == MOST


@pytest.mark.parametrize("sources", [2, 3, 5])
def test_the_pick_is_where_the_projection_is_best(sources: int) -> None:
    """The distance to a mix of twentieths, which a search over many sources finds by exchanges alone."""
    best = {2: (0.35, 0.65), 3: (0.2, 0.45, 0.35), 5: (0.1, 0.25, 0.3, 0.0, 0.35)}[sources]

    def distance(mix: tuple[float, ...], size: int) -> float:
        return size * sum((one - other) ** 2 for one, other in zip(mix, best, strict=True))

    mixes = simplex(5, sources)
    distances = np.array([[distance(mix, size) for mix in mixes] for size in (1, 2)])
    (fit, *_) = projections(np.array(mixes), distances, distances, (1, 2))
    search = Search(fit, distance, 4)
    assert search.best(mixes, lambda _: None) == pytest.approx(best)
    assert search.at(best) == pytest.approx(0, abs=0.02)
