"""Transport on lines and slices against POT and closed forms."""

from itertools import product
from typing import Any

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from moe.ot import sliced_wasserstein, wasserstein_1d
from tests.each import each

# POT has no types.
POT: Any = ot


def points(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masses(length: int, seed: int) -> Tensor:
    mass = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mass / mass.sum()


@each("p", [1, 2, 3])
def test_on_a_line_it_is_pots(p: int) -> None:
    x, y = points(3, 20), points(3, 13, seed=1)
    a, b = masses(20, 2), masses(13, 3)
    for line in range(3):
        weighted = POT.wasserstein_1d(x[line].numpy(), y[line].numpy(), a.numpy(), b.numpy(), p=p)
        assert float(wasserstein_1d(x, y, a, b, p=p)[line]) == pytest.approx(float(weighted), rel=1e-9)
        unequal = POT.wasserstein_1d(x[line].numpy(), y[line].numpy(), p=p)
        assert float(wasserstein_1d(x, y, p=p)[line]) == pytest.approx(float(unequal), rel=1e-9)


def test_equal_sizes_by_sorting_and_by_quantiles_agree() -> None:
    x, y = points(4, 30), points(4, 30, seed=1)
    uniform = torch.full([30], 2.5, dtype=torch.float64)
    assert torch.allclose(wasserstein_1d(x, y), wasserstein_1d(x, y, uniform, uniform), rtol=1e-12)


@each("weighted", [False, True])
def test_slices_are_pots(weighted: bool) -> None:
    x, y = points(40, 5), points(25, 5, seed=1) + 0.5
    a, b = (masses(40, 2), masses(25, 3)) if weighted else (None, None)
    ours = sliced_wasserstein(x, y, a, b, num_slices=60, generator=torch.Generator().manual_seed(4))
    directions = torch.randn(60, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    directions = directions / directions.norm(dim=-1, keepdim=True)
    theirs = POT.sliced_wasserstein_distance(
        x.numpy(),
        y.numpy(),
        None if a is None else a.numpy(),
        None if b is None else b.numpy(),
        projections=directions.numpy().T,
    )
    assert float(ours) == pytest.approx(float(theirs) ** 2, rel=1e-9)


def test_a_translate_is_as_far_as_it_was_moved_in_one_direction() -> None:
    x, move = points(50, 4), torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    distance = sliced_wasserstein(x, x + move, num_slices=20000, generator=generator)
    assert float(distance) == pytest.approx(float(move.square().sum()) / 4, rel=0.03)


def test_weightings_are_ordered_and_exact_in_one_dimension() -> None:
    x, y = points(2, 30, 3), points(2, 30, 3, seed=1) * torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)

    def distance(weighting: Any) -> Tensor:
        return sliced_wasserstein(x, y, num_slices=50, generator=torch.Generator().manual_seed(1), weighting=weighting)

    mean, energy, most = distance("mean"), distance("energy"), distance("max")
    assert mean.shape == (2,)
    assert (mean < energy).all()
    assert (energy < most).all()
    flat = sliced_wasserstein(x[..., :1], y[..., :1], num_slices=3, generator=None)
    assert torch.allclose(flat, wasserstein_1d(x[..., 0], y[..., 0]))


@each("weighting, weighted", product(["mean", "max", "energy"], [False, True]))
def test_its_gradient(weighting: Any, weighted: bool) -> None:
    a, b = (masses(6, 2), masses(4, 3)) if weighted else (None, None)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return sliced_wasserstein(x, y, a, b, num_slices=4, generator=generator, weighting=weighting)

    assert torch.autograd.gradcheck(distance, (points(6, 3).requires_grad_(), points(4, 3, seed=1).requires_grad_()))


def test_the_same_generator_gives_the_same_value() -> None:
    x, y = points(30, 3), points(30, 3, seed=1)
    first, second, other = (
        sliced_wasserstein(x, y, num_slices=5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not np.isclose(float(first), float(other))


@each(
    "options, message",
    [({"num_slices": 0}, "num_slices"), ({"p": 0.5}, "p: less"), ({"weighting": "sum"}, "weighting: unknown")],
)
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(points(4, 2), points(4, 2), **({"num_slices": 3, "generator": None} | options))
