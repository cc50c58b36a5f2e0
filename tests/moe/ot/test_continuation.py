"""Balancing potentials in a fixed number of evaluations, against bisection and the solver with a tolerance."""

from itertools import product

import pytest
import torch
from torch import Tensor

from moe.ot import balancing_potentials, expert_potentials, summed_elements
from tests.each import each
from tests.moe.ot.routers import skewed_logits


def imbalance(scores: Tensor, potentials: Tensor, *, mass: float, gamma: float) -> float:
    """Largest distance of a column's load from the mean load, over it; thresholds by bisection in float64."""
    priced = scores.double() + potentials.double()
    low, high = priced.amin(dim=1, keepdim=True) - mass * gamma, priced.amax(dim=1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        too_much = (priced - middle).relu().sum(dim=1, keepdim=True) > mass * gamma
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    load = (priced - high).relu().sum(dim=0)
    return float((load / load.mean() - 1).abs().max())


def with_a_favourite(scores: Tensor) -> Tensor:
    """All rows like the first column by three standard deviations more."""
    scores = scores.clone()
    scores[:, 0] += 3
    scores -= scores.mean(dim=1, keepdim=True)
    return scores / scores.square().mean().sqrt()


@each("mass, gamma, favourite", product([1, 2], [0.1, 1.0], [False, True]))
def test_loads_are_even_after_few_evaluations_from_zero(mass: int, gamma: float, favourite: bool) -> None:
    scores = skewed_logits(2048, 16, seed=0).float()
    scores = with_a_favourite(scores) if favourite else scores
    assert imbalance(scores, torch.zeros(16), mass=mass, gamma=gamma) > 1
    found = balancing_potentials(scores, torch.zeros(16), mass=mass, gamma=gamma, evaluations=5)
    assert imbalance(scores, found.potentials, mass=mass, gamma=gamma) < 0.04
    found = balancing_potentials(scores, found.potentials, mass=mass, gamma=gamma, evaluations=5)
    assert imbalance(scores, found.potentials, mass=mass, gamma=gamma) < 0.03


def test_the_potentials_are_those_of_the_solver_with_a_tolerance() -> None:
    scores = skewed_logits(1024, 8, seed=1)
    found = balancing_potentials(scores, torch.zeros(8, dtype=torch.float64), mass=1, gamma=0.1, evaluations=12)
    mass, load = scores.new_ones(1024), scores.new_full([8], 128)
    exact = expert_potentials(-scores, mass, load, k=8, gamma=0.1, tolerance=1e-5, max_evaluations=300).potentials[1]
    torch.testing.assert_close(found.potentials, exact - exact.mean(), atol=5e-3, rtol=0)
    assert abs(float(found.potentials.mean())) < 1e-12


def test_the_residual_is_that_of_the_last_evaluation() -> None:
    """With rows of two columns the plan is clear without a threshold: half, more by the difference, at most all."""
    scores = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    before = balancing_potentials(scores, torch.zeros(2), mass=1, gamma=0.5, evaluations=4)
    # Five evaluations begin alike only where temperatures agree: start from the end and keep still.
    still = balancing_potentials(scores, before.potentials, mass=1, gamma=0.5, evaluations=40)
    first = (0.5 + (scores + still.potentials).diff(dim=1)[:, 0].neg() / 2 / 0.5).clamp(0, 1)
    assert float(still.residual) == pytest.approx(float((first.mean() / 0.5 - 1).abs()), abs=2e-3)


def test_more_evaluations_leave_less() -> None:
    scores = with_a_favourite(skewed_logits(2048, 32, seed=2).float())
    left = [
        imbalance(
            scores,
            balancing_potentials(scores, torch.zeros(32), mass=2, gamma=0.1, evaluations=number).potentials,
            mass=2,
            gamma=0.1,
        )
        for number in (3, 5, 8, 12)
    ]
    assert left[0] > left[1] > left[-1]
    assert left[-1] < 0.01, left


def test_padding_and_the_rows_of_other_ranks_count_as_they_say() -> None:
    scores = skewed_logits(400, 8, seed=3)
    counted = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.7
    options = {"mass": 1, "gamma": 0.1, "evaluations": 6}
    start = torch.zeros(8, dtype=torch.float64)
    alone = balancing_potentials(scores[counted], start, **options)
    padded = balancing_potentials(scores, start, rows=counted.sum(), counted_N=counted, **options)
    torch.testing.assert_close(padded.potentials, alone.potentials)
    torch.testing.assert_close(padded.residual, alone.residual)

    sent: list[int] = []

    def twice(own: Tensor) -> Tensor:
        sent.append(own.numel())
        return own * 2

    together = balancing_potentials(scores[counted], start, rows=2 * counted.sum(), reduce=twice, **options)
    torch.testing.assert_close(together.potentials, alone.potentials, atol=1e-5, rtol=0)
    assert tuple(sent) == summed_elements(8, 6)
    none = balancing_potentials(scores[:0], start, rows=counted.sum() * 0, reduce=twice, **options)
    assert none.potentials.isfinite().all()


@each("evaluations", [1, 2, 3, 5])
def test_hopeless_starts_and_equal_scores_end_finite(evaluations: int) -> None:
    for scores, start in (
        (torch.zeros(16, 4), torch.zeros(4)),
        (torch.zeros(16, 1), torch.zeros(1)),
        (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([900.0, 0.0, 0.0, -900.0])),
    ):
        found = balancing_potentials(scores, start, mass=2, gamma=0.1, evaluations=evaluations)
        assert found.potentials.isfinite().all()
        assert found.residual.isfinite()
