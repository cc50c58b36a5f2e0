"""The projection onto the sparse simplex against brute force over supports."""

import itertools

import pytest
import torch
from torch import Tensor

from moe.ot import project_rows
from moe.ot.dual import RowSpread
from tests.each import each


def scores_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projected(scores: Tensor, mass: float, gamma: float) -> tuple[Tensor, Tensor]:
    """The maximisers on full simplices [..., M] and their values, by bisection on the threshold."""
    low, high = scores.amin(-1, keepdim=True) - gamma * mass, scores.amax(-1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        too_low = (scores - middle).clamp_min(0).sum(-1, keepdim=True) > gamma * mass
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    best = (scores - low).clamp_min(0) / gamma
    return best, (best * scores).sum(-1) - gamma / 2 * best.square().sum(-1)


def test_the_conjugate_is_the_best_over_all_supports() -> None:
    supports = torch.tensor(list(itertools.combinations(range(8), 3)))
    for draw in range(50):
        scores, mass, gamma = scores_of(8, seed=draw), 0.3 + draw / 20, 0.2 + draw / 50
        best = float(projected(scores[supports], mass, gamma)[1].max())
        result = project_rows(scores, torch.tensor(mass, dtype=torch.float64), k=3, gamma=gamma)
        assert float(result.conjugate) == pytest.approx(best, abs=1e-12)
        assert float(result.values.sum()) == pytest.approx(mass, abs=1e-12)
        at_values = (scores[result.indices] * result.values).sum() - gamma / 2 * result.values.square().sum()
        assert float(at_values) == pytest.approx(best, abs=1e-12)


def test_without_a_limit_it_is_the_simplex() -> None:
    scores = scores_of(9)
    best, _ = projected(scores, 1.5, 0.7)
    for k in (9, 100):
        result = project_rows(scores, torch.tensor(1.5, dtype=torch.float64), k=k, gamma=0.7)
        assert torch.allclose(torch.zeros(9, dtype=torch.float64).scatter(0, result.indices, result.values), best)


def test_one_entry_takes_it_all_and_no_mass_takes_none() -> None:
    scores = scores_of(2, 5)
    result = project_rows(scores, torch.tensor([2.0, 0.0], dtype=torch.float64), k=1, gamma=0.5)
    assert torch.equal(result.indices[:, 0], scores.argmax(-1))
    assert result.values[:, 0].tolist() == [2.0, 0.0]


@each("k", [2, 5])
def test_its_gradient_in_scores_and_mass(k: int) -> None:
    scores, mass = scores_of(3, 5).requires_grad_(), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64).requires_grad_()

    def outputs(scores: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = project_rows(scores, mass, k=k, gamma=0.8)
        return result.values, result.threshold, result.conjugate

    assert torch.autograd.gradcheck(outputs, (scores, mass))


@each("dtype", [torch.float32, torch.float64])
@each("k, gamma", [(1, 0.1), (2, 1.0), (3, 0.3), (7, 0.3), (20, 5.0)])
def test_sums_without_sorting_are_those_of_the_sorted_rows(k: int, gamma: float, dtype: torch.dtype) -> None:
    cost, mass = scores_of(2, 40, 12).to(dtype), scores_of(2, 40, seed=1).abs().to(dtype)
    mass[0, :5] = 0
    spread = RowSpread(cost, mass, k=k, gamma=gamma)
    for step in range(4):
        potentials = scores_of(2, 12, seed=step).to(dtype) * (3 if step == 2 else 0.1)
        load, conjugate = spread(potentials)
        rows = project_rows(potentials[:, None] - cost, mass, k=k, gamma=gamma)
        expected = torch.zeros(2, 12, dtype=dtype).scatter_add(-1, rows.indices.flatten(1), rows.values.flatten(1))
        accuracy = 1e-4 if dtype == torch.float32 else 1e-12
        assert torch.allclose(load, expected, atol=accuracy)
        assert torch.allclose(conjugate, rows.conjugate.sum(-1), rtol=accuracy, atol=accuracy)


def test_listed_columns_are_all_that_a_row_sees() -> None:
    cost, mass, potentials = scores_of(1, 6, 10), torch.ones(1, 6, dtype=torch.float64), scores_of(1, 10, seed=3)
    generator = torch.Generator().manual_seed(0)
    lists = torch.stack([torch.randperm(10, generator=generator)[:5] for _ in range(6)])[None]
    lists[0, 2, 3:] = -1
    hidden = torch.full_like(cost, 100.0)
    for row in range(6):
        seen = lists[0, row][lists[0, row] >= 0]
        hidden[0, row, seen] = cost[0, row, seen]
    load, conjugate = RowSpread(cost, mass, k=2, gamma=0.5, columns_PNW=lists)(potentials)
    expected_load, expected_conjugate = RowSpread(hidden, mass, k=2, gamma=0.5)(potentials)
    assert torch.allclose(load, expected_load)
    assert torch.allclose(conjugate, expected_conjugate)
