"""Homes of experts that several ranks hold: one each, as many on every rank, wherever that can be."""

import re

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from moe.replica import Slots, home_slots
from tests.each import each

EXPERTS = 12


def drawn(seed: int) -> tuple[np.ndarray, int]:
    """Slots of some ranks with every expert somewhere and none twice on a rank; a balanced choice may not exist."""
    rng = np.random.default_rng(seed)
    ranks = int(rng.choice([2, 3, 4]))
    width = EXPERTS // ranks + int(rng.integers(0, 4))
    while True:
        slots = np.stack([rng.permutation(EXPERTS)[:width] for _ in range(ranks)])
        if len(np.unique(slots)) == EXPERTS:
            return slots, ranks


@each("seed", range(60))
def test_homes_are_balanced_wherever_a_matching_exists(seed: int) -> None:
    slots, ranks = drawn(seed)
    places = np.repeat(
        np.array([[expert in row for row in slots.tolist()] for expert in range(EXPERTS)]), EXPERTS // ranks, 1
    )
    possible = (maximum_bipartite_matching(csr_matrix(places), perm_type="column") >= 0).all()
    if not possible:
        with pytest.raises(ValueError, match=r"^slot_to_expert: no choice of homes .*; put some experts"):
            Slots.of(slots.reshape(-1), EXPERTS, ranks)
        return
    found = Slots.of(slots.reshape(-1), EXPERTS, ranks)
    np.testing.assert_array_equal(np.sort(found.experts, axis=1), np.sort(slots, axis=1))
    np.testing.assert_array_equal(np.sort(found.homes, axis=None), np.arange(EXPERTS))
    for rank, expert in enumerate(found.homes):
        np.testing.assert_array_equal(found.home_ranks[expert], rank)
    assert found.copies.sum() == slots.size - EXPERTS
    assert np.trace(found.copies) == 0
    again = Slots.of(found.experts.reshape(-1), EXPERTS, ranks)
    np.testing.assert_array_equal(again.experts, found.experts)


def test_homes_in_the_first_slots_stay_there_whatever_the_replicas() -> None:
    homes = np.array([[5, 1, 2], [0, 4, 3]])
    for replicas in ([[], []], [[3], [2]], [[0, 4], [1, 2]], [[4, 3, 0], [2, 1, 5]]):
        slots = np.hstack([homes, np.array(replicas, dtype=np.int64)])
        np.testing.assert_array_equal(Slots.of(slots.reshape(-1), 6, 2).experts, slots)


def test_no_replicas_leave_every_slot_where_it_is() -> None:
    slots = np.stack([np.random.default_rng(layer).permutation(EXPERTS) for layer in range(3)])
    np.testing.assert_array_equal(home_slots(slots, EXPERTS, 4), slots)


@each(
    "slots, message",
    [
        ([0, 1, 2, 2], "slot_to_expert: is not an order of 4 experts"),
        ([0, 1, 2, 3, 0], "slot_to_expert: 5 slots of 2 ranks do not hold experts 0 to 3"),
        ([0, 1, 2, 0, 1, 2], "slot_to_expert: 6 slots of 2 ranks do not hold experts 0 to 3"),
        ([0, 1, 0, 2, 3, 1], "slot_to_expert: an expert is twice on one rank"),
    ],
)
def test_slots_that_do_not_hold_every_expert_are_refused(slots: list[int], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Slots.of(np.array(slots), 4, 2)


def test_homes_that_cannot_be_balanced_are_refused_with_a_remedy() -> None:
    slots = np.array([[0, 1, 2], [3, 4, 5], [3, 4, 5]])
    with pytest.raises(ValueError, match=r"gives each of 3 ranks 2 of 6 experts \(expert 2 finds none\); put some"):
        Slots.of(slots.reshape(-1), 6, 3)
