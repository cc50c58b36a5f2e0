import itertools
from itertools import product

import pytest
import torch

from moe.router.capacity import (
    cut_best,
    cut_by_margin,
    keep_first,
    keep_largest,
    map_of,
    slots_of_tokens,
    slots_per_expert,
)
from tests.each import each


@each(
    "choices, experts, factor, slots",
    [(256, 8, 1.25, 40), (100, 10, 1.1, 11), (7, 8, 1.0, 1), (9, 8, 1.0, 2), (0, 8, 1.25, 0), (12, 1, 0.5, 6)],
)
def test_slots_are_the_multiple_of_the_mean_rounded_up(choices: int, experts: int, factor: float, slots: int) -> None:
    assert slots_per_expert(choices, experts, factor) == slots
    assert slots_of_tokens(torch.tensor(choices), top_k=1, num_experts=experts, factor=factor).item() == slots


def test_the_largest_stay_and_among_equals_the_first() -> None:
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0], [3.0, 5.0], [9.0, 9.0], [3.0, 0.0]])
    chosen = torch.tensor([[1, 1], [1, 1], [1, 1], [0, 1], [1, 0]], dtype=torch.bool)
    kept = keep_largest(values, chosen, 2)
    assert kept.T.int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    assert keep_largest(values, chosen, torch.tensor([0, 9])).sum(dim=0).tolist() == [0, 4]


def test_the_first_stay() -> None:
    chosen = torch.tensor([[1, 0], [1, 1], [0, 1], [1, 1]], dtype=torch.bool)
    assert keep_first(chosen, 2).T.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]


@each("due, tight", product([1, 2], [True, False]))
def test_a_cut_map_keeps_every_limit_and_serves_everyone(due: int, tight: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores = torch.randn(40, 5, generator=generator) + torch.tensor([3.0, 1.0, 0.0, 0.0, -1.0])
        wanted = map_of(scores.topk(3, dim=1).indices, 5) & (scores > scores.topk(2, dim=1).values[:, 1:] - 0.2)
        wanted |= map_of(scores.topk(due, dim=1).indices, 5)
        slots = torch.full([5], 40 * due // 5 if tight else 50 * due // 5)
        cut = cut_by_margin(scores, wanted, slots, due)
        assert (cut.sum(dim=0) <= slots).all()
        assert (cut.sum(dim=1) <= wanted.sum(dim=1)).all()
        if due == 1:
            assert cut.any(dim=1).all()
            assert not tight or (cut.sum(dim=0) == slots).all()


def test_who_leaves_a_full_expert_loses_least() -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(20):  # one full expert and room elsewhere: the cut is the best assignment
        scores = torch.rand(6, 3, generator=generator, dtype=torch.float64)
        scores[:, 0] += 2
        cut = cut_by_margin(scores, map_of(scores.argmax(dim=1)[:, None], 3), torch.tensor([3, 6, 6]), 1)
        best = max(
            sum(scores[token, expert].item() for token, expert in enumerate(assignment))
            for assignment in itertools.product(range(3), repeat=6)
            if assignment.count(0) <= 3
        )
        assert (scores * cut).sum().item() == pytest.approx(best)


def test_choices_beyond_the_due_never_take_the_slot_of_one_that_is_due() -> None:
    scores = torch.tensor([[2.0, 1.9], [5.0, 0.0], [5.0, 0.0]])
    wanted = torch.tensor([[1, 1], [1, 0], [1, 0]], dtype=torch.bool)
    cut = cut_by_margin(scores, wanted, torch.tensor([1, 2]), 1)
    assert cut.int().tolist() == [[0, 1], [1, 0], [0, 1]]


@each("due", [1, 2])
def test_where_nothing_is_over_the_cut_is_the_map_whatever_the_ties(due: int) -> None:
    """Scores of few values, so that choices, margins and the costs of others are equal in most rows and columns."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        scores = torch.randint(0, 3, [30, 6], generator=generator).float()
        wanted = map_of(scores.topk(due + 1, dim=1).indices, 6)
        best = map_of(scores.topk(due, dim=1).indices, 6)
        for slots in (wanted.sum(dim=0), int(wanted.sum(dim=0).max())):
            assert torch.equal(cut_by_margin(scores, wanted, slots, due), wanted)
        assert torch.equal(cut_best(scores, int(best.sum(dim=0).max()), due), best)


@each("due, slack", product([1, 2, 3], [1.0, 1.25]))
def test_nobody_is_without_an_expert_while_there_is_room_for_all(due: int, slack: float) -> None:
    generator = torch.Generator().manual_seed(4)
    for skew in (0.0, 3.0, 100.0):
        scores = torch.randn(50, 7, generator=generator) + skew * torch.linspace(1, 0, 7)
        slots = slots_per_expert(50 * due, 7, slack)
        cut = cut_best(scores, slots, due)
        assert cut.any(dim=1).all()
        assert cut.sum(dim=0).max() <= slots
        assert cut.sum(dim=1).max() <= due
        assert cut.sum() >= 0.9 * 50 * due
        wide = map_of(scores.topk(due + 2, dim=1).indices, 7)
        assert cut_by_margin(scores, wide, slots, due).any(dim=1).all()


def test_scarce_slots_serve_as_many_tokens_as_there_are_slots() -> None:
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(5))
    cut = cut_by_margin(scores, map_of(scores.topk(2, dim=1).indices, 5), torch.tensor([1, 2, 0, 3, 4]), 2)
    assert cut.sum(dim=0).tolist() == [1, 2, 0, 3, 4]


def test_padding_takes_no_slot_and_changes_nobody_elses() -> None:
    generator = torch.Generator().manual_seed(6)
    scores, counted = torch.randn(60, 5, generator=generator), torch.rand(60, generator=generator) < 0.6
    scores[:, 0] += 2
    slots = slots_per_expert(int(counted.sum()), 5, 1.1)
    padded, alone = cut_best(scores, slots, 1, counted), cut_best(scores[counted], slots, 1)
    assert torch.equal(padded[counted], alone)
    assert not padded[~counted].any()
