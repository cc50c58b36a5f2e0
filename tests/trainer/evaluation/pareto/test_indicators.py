"""Front, hypervolume, R2 and diversity against brute force."""

import itertools

import numpy as np
import pytest

from tests.each import each
from trainer.evaluation.pareto import Points, best_distinct, front, hypervolume, mean_pairwise, r2


def points_of(seed: int, num: int, objectives: int) -> Points:
    """Points near a sphere, so that many are on the front, some of them twice, some at an edge."""
    generator = np.random.default_rng(seed)
    points = np.abs(generator.normal(size=(num, objectives)))
    points /= np.linalg.norm(points, axis=1, keepdims=True) * generator.uniform(1.0, 1.3, size=(num, 1))
    points[0, 0] = 0.0
    return np.concatenate([points, points[: num // 4]])


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


@each("objectives", [1, 2, 3, 4])
def test_the_front_is_what_no_other_point_dominates(objectives: int) -> None:
    points = points_of(0, 40, objectives)
    rows = [tuple(row) for row in points.tolist()]
    expected = {row for row in rows if not any(dominates(other, row) for other in rows)}
    found = [rows[number] for number in front(points)]
    assert set(found) == expected
    assert len(found) == len(expected), "equal points count once"
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("objectives", "num"), [(2, 12), (3, 20), (4, 10)])
def test_hypervolume_is_the_share_of_the_cube_that_is_dominated(objectives: int, num: int) -> None:
    """Monte Carlo with 1e5 points, within 1 %."""
    points = np.random.default_rng(1).uniform(0.5, 1.0, size=(num, objectives))
    places = np.random.default_rng(2).uniform(size=(100_000, objectives))
    dominated = np.zeros(len(places), dtype=bool)
    for point in points:
        dominated |= (places <= point).all(axis=1)
    assert hypervolume(points) == pytest.approx(dominated.mean(), rel=0.01)


def test_hypervolume_by_inclusion_and_exclusion() -> None:
    """Exact: boxes that share a corner intersect in the box of the smaller sides."""
    for objectives, seed in itertools.product((1, 2, 3), range(3)):
        points = points_of(seed, 7, objectives)[:7]
        volume = 0.0
        for size in range(1, len(points) + 1):
            boxes = itertools.combinations(points, size)
            volume -= (-1) ** size * sum(float(np.min(some, axis=0).prod()) for some in boxes)
        assert hypervolume(points) == pytest.approx(volume, rel=1e-12)
    assert hypervolume(np.array([[0.0, 1.0], [-1.0, 2.0]])) == 0.0, "nothing above the reference point"


def test_r2_by_its_definition() -> None:
    points, weights = points_of(3, 20, 3), np.random.default_rng(4).dirichlet(np.ones(3), 6)
    total = 0.0
    for w in weights.tolist():
        total += min(max(w[i] * abs(1 - x[i]) for i in range(3)) for x in points.tolist())
    norm = sum(value**2 for w in weights.tolist() for value in w) ** 0.5
    assert r2(points, weights) == pytest.approx(total / norm, rel=1e-12)
    assert r2(np.ones((1, 3)), weights) == 0.0


def test_the_best_objects_are_distinct_and_their_distances_are_averaged() -> None:
    objects = np.array([[1], [2], [1], [5], [2], [9]])
    values = np.array([0.9, 0.5, 0.9, 0.7, 0.5, 0.1])
    assert objects[best_distinct(values, objects, 3)].tolist() == [[1], [5], [2]]
    assert len(best_distinct(values, objects, 10)) == 4
    distances = np.abs(np.array([1, 5, 2])[:, None] - np.array([1, 5, 2])).astype(float)
    assert mean_pairwise(distances) == pytest.approx((4 + 1 + 3) / 3)
    assert mean_pairwise(np.zeros((1, 1))) == 0.0
