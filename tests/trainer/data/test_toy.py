"""Points in the plane: functions of their numbers, where their closed forms say."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from tests.each import each
from trainer import data
from trainer.data import Loader, ToyConfig
from trainer.data.builtin import TOY_SETS

NUM = 20_000
Points = NDArray[np.float64]


def points(name: str, num: int = NUM, **settings: object) -> tuple[Points, NDArray[np.int64]]:
    config = ToyConfig.model_validate({"name": name, "num_examples": num, "classes": True, **settings})
    toy = data.build(config)
    batch = toy.get(toy.indices("train"))
    x, labels = batch.x_1, batch.labels
    assert labels is not None
    assert x.dtype == torch.float32
    return x.numpy().astype(float), labels.numpy()


def polyline_distance(x: Points, curve: Callable[[Points], Points]) -> Points:
    """Distance to the nearest of many places on a curve, found by looking at all of them."""
    places = curve(np.linspace(0, 1, 2000))
    return np.concatenate([np.linalg.norm(part[:, None] - places, axis=2).min(1) for part in np.array_split(x, 20)])


def circle(radius: float) -> Callable[[Points], Points]:
    return lambda u: radius * np.stack([np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)], axis=1)


def moon(sign: int) -> Callable[[Points], Points]:
    return lambda u: sign * np.stack([1.5 * np.cos(np.pi * u) - 0.75, 1.5 * np.sin(np.pi * u) - 0.375], axis=1)


def arm(turn: float) -> Callable[[Points], Points]:
    def curve(u: Points) -> Points:
        angle = 3 * np.pi * u
        return (2 * angle / (3 * np.pi))[:, None] * np.stack([np.cos(angle + turn), np.sin(angle + turn)], axis=1)

    return curve


def roll(u: Points) -> Points:
    angle = 1.5 * np.pi + 3 * np.pi * u
    return (angle / (2.25 * np.pi))[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


CURVES = {
    "moons": [moon(1), moon(-1)],
    "rings": [circle(1), circle(2)],
    "spirals": [arm(0), arm(np.pi)],
    "swiss_roll": [roll],
}


@each("name", CURVES)
def test_points_spread_around_their_curve(name: str) -> None:
    x, labels = points(name, 6000)
    spread = TOY_SETS[name].spread
    for part, curve in enumerate(CURVES[name]):
        distance = polyline_distance(x[labels == part], curve)
        assert distance.max() < 5.5 * spread
        assert abs(distance.mean() - spread * math.sqrt(2 / math.pi)) < 0.006, "half a normal distribution"


def test_the_checkerboard_is_even_on_its_dark_squares() -> None:
    x, labels = points("checkerboard")
    squares = np.floor(x + 2).astype(int)
    assert squares.min() == 0
    assert squares.max() == 3
    assert (squares.sum(1) % 2 == 0).all()
    counts = np.bincount(4 * squares[:, 1] + squares[:, 0], minlength=16)
    assert (np.abs(counts[counts > 0] - NUM / 8) < 5 * math.sqrt(NUM / 8)).all()
    assert len({(label, *square) for label, square in zip(labels, squares.tolist(), strict=True)}) == 8
    inside = x + 2 - squares
    for moment, expected in ((1, 1 / 2), (2, 1 / 3), (3, 1 / 4)):
        np.testing.assert_allclose((inside**moment).mean(0), expected, atol=0.015)


def test_gaussians_are_gaussian() -> None:
    x, labels = points("eight_gaussians")
    for part in range(8):
        blob = x[labels == part]
        centre = 2 * np.array([math.cos(part * math.pi / 4), math.sin(part * math.pi / 4)])
        np.testing.assert_allclose(blob.mean(0), centre, atol=0.02)
        np.testing.assert_allclose(np.cov(blob.T), TOY_SETS["eight_gaussians"].spread ** 2 * np.eye(2), atol=0.004)
        kurtosis = ((blob - blob.mean(0)) ** 4).mean(0) / blob.var(0) ** 2
        np.testing.assert_allclose(kurtosis, 3, atol=0.5)


@each("name", TOY_SETS)
def test_a_point_is_a_function_of_its_number(name: str) -> None:
    toy = data.build(ToyConfig.model_validate({"name": name, "held_out": 50}))
    ids = torch.cat([torch.arange(100), torch.tensor([2**40, 2**61]), toy.indices("held_out")])
    batch = toy.get(ids)
    together, labels = batch.x_1, batch.labels
    assert labels is None
    alone = torch.cat([toy.get(ids[place : place + 1]).x_1 for place in range(len(ids))])
    assert torch.equal(together, alone)
    assert len(together.unique(dim=0)) == len(ids), "no two are the same point"
    other = data.build(ToyConfig.model_validate({"name": name, "held_out": 50, "seed": 1}))
    assert not torch.isin(together, other.get(ids).x_1).any()
    assert together.abs().max() < 3


def test_parts_are_equally_likely_and_labels_are_theirs() -> None:
    for name, (parts, *_) in TOY_SETS.items():
        _, labels = points(name, 8000)
        counts = np.bincount(labels, minlength=parts)
        assert len(counts) == parts == ToyConfig.model_validate({"name": name, "classes": True}).num_classes
        assert (np.abs(counts - 8000 / parts) < 5 * math.sqrt(8000 / parts)).all()


def test_an_endless_set_never_repeats_and_does_not_depend_on_the_world_size() -> None:
    toy = data.build(ToyConfig())

    def ids(rank: int, world_size: int) -> list[int]:
        loader = Loader(toy, global_batch=8, micro_batch=2, rank=rank, world_size=world_size, seed=0)
        return [int(i) for local in range(loader.accumulation) for i in loader.batch(1000, local).ids]

    assert ids(0, 1) == list(range(8000, 8008)) == ids(0, 2) + ids(1, 2)
    held_out = Loader(toy, global_batch=8, micro_batch=8, rank=0, world_size=1, seed=0, split="held_out")
    assert torch.isin(held_out.batch(0, 0).ids, toy.indices("held_out")).all()
