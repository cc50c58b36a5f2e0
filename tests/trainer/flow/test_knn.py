"""The nearest of k draws: its limit, its distribution, its memory."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.flow import UNCONDITIONAL, coupling


def drawn(x_1: torch.Tensor, k: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return coupling.build(coupling.KNN(k=k)).draw(x_1, UNCONDITIONAL, generator=generator).x_0


def test_one_candidate_is_the_independent_coupling_to_the_last_bit() -> None:
    x_1 = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    independent = coupling.Independent().draw(x_1, UNCONDITIONAL, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn(x_1, 1), independent.x_0)


def test_the_distance_is_that_of_the_nearest_of_k() -> None:
    """Against brute force over the same draws."""
    x_1 = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(0)
    candidates = torch.stack([torch.randn(16, 3, 2, generator=generator) for _ in range(9)])
    nearest = (candidates - x_1).flatten(2).norm(dim=-1).argmin(0)
    assert torch.equal(drawn(x_1, 9), candidates[nearest, torch.arange(16)])


@pytest.mark.parametrize("k", [2, 4, 16])
def test_around_the_origin_the_squared_length_is_the_smallest_of_k_chi_squares(k: int) -> None:
    lengths = drawn(torch.zeros(4000, 5), k).square().sum(1).numpy()
    assert stats.kstest(lengths, lambda r: 1 - stats.chi2(5).sf(r) ** k).pvalue > 0.01


def test_towards_a_far_data_point_the_mean_is_that_of_the_largest_of_k_normal_numbers() -> None:
    """Across that direction the draws stay normal."""
    direction = torch.nn.functional.normalize(torch.tensor([3.0, -1.0, 2.0, 0.5]), dim=0)
    x_0 = drawn(1e4 * direction.expand(20_000, 4), 4)
    along = (x_0 @ direction).numpy()
    largest = np.random.default_rng(0).normal(size=(200_000, 4)).max(1).mean()
    assert along.mean() == pytest.approx(largest, abs=0.03)
    across = (x_0 - (x_0 @ direction)[:, None] * direction)[:, 0].numpy()
    assert stats.kstest(across / (1 - float(direction[0]) ** 2) ** 0.5, "norm").pvalue > 0.01


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_does_not_grow_with_the_candidates() -> None:
    x_1 = torch.zeros(32, 10)
    for k in (2, 50):
        with Largest() as largest:
            drawn(x_1, k)
        assert largest.elements == x_1.numel()
