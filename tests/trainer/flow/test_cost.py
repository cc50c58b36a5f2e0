"""Costs of maps: closed forms, scipy, finite differences; settings that are refused; a user's own class."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import correlate
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from tests.each import each
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.cost import AttentionConfig, Config, RunningCost, blurred, divergence, separation_cost


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spots(*cells: int) -> Tensor:
    """Maps [1, T, 3, 3] that are 0 but for one cell each."""
    return torch.eye(9)[list(cells)].view(1, -1, 3, 3)


@pytest.mark.parametrize("num", [2, 3, 5])
def test_the_divergence_of_equal_maps_is_0_and_of_maps_apart_1(num: int) -> None:
    one = maps(4, 1, 3, 5)
    scales = torch.arange(1, num + 1).view(1, -1, 1, 1)
    torch.testing.assert_close(divergence(one * scales), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(divergence(spots(*range(num))), torch.ones(1), rtol=0, atol=1e-6)


def test_the_divergence_of_two_maps_is_the_one_of_scipy() -> None:
    two = maps(6, 2, 4, 4, seed=1)
    cubes = two.flatten(2).numpy() ** 3
    expected = [jensenshannon(first, second, base=2) ** 2 for first, second in cubes]
    np.testing.assert_allclose(divergence(two), expected, rtol=1e-9)


def test_the_cost_in_closed_form() -> None:
    apart, same = (spots(0), spots(4)), (spots(4), spots(4))
    for subjects, gather, expected in (
        (apart, False, 0.0),
        (same, False, 0.5),
        (apart, True, 0.5),
        (same, True, 0.0),
        ((spots(0, 1), spots(2)), False, (1 + 0) / 2),
        ((spots(0, 0), spots(1, 2), spots(3)), False, (0.5 + 0) / 2),
        ((spots(3, 3, 3),), False, 0.0),
        ((spots(3, 5, 7),), False, 0.5),
    ):
        assert float(separation_cost(subjects, gather=gather)) == pytest.approx(expected, abs=1e-6)


def test_orders_are_of_no_effect() -> None:
    subjects = [maps(3, num, 4, 4, seed=num) for num in (1, 2, 3)]
    expected = separation_cost(subjects)
    assert bool(((expected >= 0) & (expected <= 1)).all())
    for order in itertools.permutations(subjects):
        torch.testing.assert_close(separation_cost([values.flip(1) for values in order]), expected)


def test_the_gradient_is_the_one_of_finite_differences() -> None:
    subjects = tuple((maps(2, num, 3, 3, seed=num) + 0.05).requires_grad_() for num in (1, 2))
    assert torch.autograd.gradcheck(lambda *values: separation_cost(values), subjects)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0])
def test_the_gradient_of_maps_with_zeros_is_finite(scale: float) -> None:
    one, other = (scale * spots(0, 1)).requires_grad_(), scale * spots(5)
    (gradient,) = torch.autograd.grad(separation_cost([one, other]).sum(), one)
    assert bool(gradient.isfinite().all())


def test_small_values_keep_their_shape() -> None:
    """Cubes of them are 0 in float32."""
    two = maps(2, 2, 3, 3).float()
    torch.testing.assert_close(divergence(two * 1e-8), divergence(two), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (2, 2), (5, 3)])
def test_the_blur_is_the_correlation_of_scipy(shape: tuple[int, int]) -> None:
    values = maps(2, 3, *shape)
    line = np.exp(-0.5 * np.array([-1.0, 0.0, 1.0]) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    expected = [[correlate(one, kernel, mode="nearest") for one in each] for each in values.numpy()]
    np.testing.assert_allclose(blurred(values), expected, rtol=1e-12)


class Distance(RunningCost):
    """Asks the network how far it is from a place."""

    def __init__(self, network: Callable[..., Tensor], *, place: float = 0.0) -> None:
        self.network, self.place = network, place

    def __call__(self, x: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        return (self.network(x, t, condition) - self.place).square().sum(1)


def test_a_cost_of_a_users_is_built_with_the_network() -> None:
    config = TypeAdapter(Config).validate_python({"class": f"{__name__}:Distance", "place": 2.0})
    found = config.build(lambda x, t, _condition: x * t[:, None])
    x, t = torch.ones(2, 3), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(found(x, t, UNCONDITIONAL), torch.tensor([12.0, 0.0]))


@each(
    ("settings", "message"),
    [
        ({}, "subjects"),
        ({"subjects": []}, "subjects"),
        ({"subjects": [[1], []]}, "subjects"),
        ({"subjects": [[1, -1]]}, "subjects"),
        ({"subjects": [[3]]}, "patch 3 alone has nothing to be compared with"),
        ({"subjects": [[0, 1], [1]]}, "patch 1 is listed twice; list it once"),
        ({"subjects": [[0], [1]], "blocks": []}, "blocks"),
        ({"subjects": [[0], [1]], "blocks": [2, 2]}, "block 2 is listed twice"),
        ({"subjects": [[0], [1]], "goal": "part"}, "goal"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AttentionConfig.model_validate(settings)


def test_one_map_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="one map alone has nothing to be compared with"):
        separation_cost([spots(0)])
