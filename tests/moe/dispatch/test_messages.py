"""The description of the messages against counting by hand and against all sets of experts.

Shape suffixes: T tokens, K choices, E experts, N ranks.
"""

import subprocess
import sys
from fractions import Fraction
from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.dispatch.coherent_messages import Moves
from moe.dispatch.messages import PATTERNS, Sizes, Visits, spread
from tests.each import each

SIZES = Sizes(hidden=5, element_bytes=2, num_experts=6, dtype="bfloat16")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), num_ranks=st.sampled_from([1, 2, 3, 6]), choices=st.integers(1, 6))
def test_visits_are_counted_token_by_token(seed: int, num_ranks: int, choices: int) -> None:
    generator = np.random.default_rng(seed)
    expert_ranks_E = np.sort(generator.permuted(np.arange(6) % num_ranks))
    chosen = []
    expected = np.zeros((2, num_ranks, num_ranks), int)
    for home in range(num_ranks):
        ids_TK = np.array([generator.permutation(6)[:choices] for _ in range(generator.integers(0, 7))], int)
        ids_TK = np.where(generator.random(ids_TK.shape) < 0.3, -1, ids_TK).reshape(-1, choices)
        chosen.append((home, ids_TK))
        for row in ids_TK:
            visited = [int(expert_ranks_E[expert]) for expert in row if expert >= 0]
            for rank in visited:
                expected[0, home, rank] += 1
            for rank in set(visited):
                expected[1, home, rank] += 1
    visits = Visits.of(chosen, expert_ranks_E, num_ranks)
    assert np.array_equal(visits.choices, expected[0])
    assert np.array_equal(visits.tokens, expected[1])


@each("top_k, num_ranks", product([1, 2, 3, 5, 6], [1, 2, 3, 6]))
def test_even_visits_are_the_mean_over_all_sets_of_experts(num_ranks: int, top_k: int) -> None:
    ranks = [len({expert * num_ranks // 6 for expert in chosen}) for chosen in combinations(range(6), top_k)]
    visits = Visits.even(tokens=20, top_k=top_k, num_experts=6, num_ranks=num_ranks)
    for rank in range(num_ranks):
        assert visits.choices[rank].sum() == visits.choices[:, rank].sum() == 20 * top_k
        assert visits.tokens[rank].sum() == visits.tokens[:, rank].sum() == round(Fraction(20 * sum(ranks), len(ranks)))
        assert np.ptp(visits.choices[rank]) <= 1
        assert np.ptp(visits.tokens[rank]) <= 1


def test_one_choice_a_token_makes_the_modes_send_the_same_rows() -> None:
    """Limit k = 1: de-duplicated dispatch adds one label a row and a smaller message of counts, nothing else."""
    visits = Visits.even(tokens=7, top_k=1, num_experts=6, num_ranks=3)
    for phase, expected in (("forward", [2 * visits.choices, 0 * visits.choices]), ("backward", [0, 0])):
        home, copies = (
            [exchange.volume for exchange in PATTERNS[mode](visits, SIZES, phase) if exchange.dtype == SIZES.dtype]
            for mode in ("home", "copies")
        )
        for one, other, more in zip(home, copies, expected, strict=True):
            assert np.array_equal(other, one + more)


@each("top_k", [1, 2, 4])
def test_even_moves_are_what_random_experts_bring_about(top_k: int) -> None:
    """Two layers, three ranks: where tokens go, and which copies come from where they do not stay."""
    generator = np.random.default_rng(top_k)
    scores = generator.random([3, 4000, 2, 6])
    chosen = [(home, scores[home].argsort(axis=2)[:, :, :top_k]) for home in range(3)]
    random = Moves.of(chosen, np.tile(np.arange(6) // 2, (2, 1)), 3)
    visits = Visits.even(tokens=4000, top_k=top_k, num_experts=6, num_ranks=3)
    for drawn, even in zip(random, Moves.even(visits, tokens=4000, top_k=top_k, num_layers=2), strict=True):
        assert (drawn.is_first, drawn.is_last) == (even.is_first, even.is_last)
        assert np.trace(drawn.copies) == np.trace(even.copies) == 0
        for name in ("rows", "copies", "residents"):
            np.testing.assert_allclose(getattr(even, name), getattr(drawn, name), rtol=0.05)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 30), num_ranks=st.integers(2, 7), first=st.sampled_from([0, 1]))
def test_spread_rows_arrive_as_evenly_as_they_leave(rows: int, num_ranks: int, first: int) -> None:
    volume = spread(rows, num_ranks, first=first)
    assert (volume.sum(axis=0) == rows).all()
    assert (volume.sum(axis=1) == rows).all()
    others = volume[~np.eye(num_ranks, dtype=bool)] if first else volume
    assert np.ptp(others) <= 1
    assert np.trace(volume) == 0 or not first


def test_what_a_member_records_sums_its_row_and_its_column() -> None:
    visits = Visits.of([(0, np.array([[0, 1], [4, -1]])), (1, np.array([[2, 3]]))], np.arange(6) // 3, 2)
    counts, out, home = PATTERNS["copies"](visits, SIZES, "forward")
    assert counts.fields(0)["in_splits"] == (8, 8)
    label = 2 + 4
    assert out.fields(0) == {
        "op": "all_to_all",
        "dtype": "bfloat16",
        "bytes_in": (10 + 2 * label) + (10 + label),
        "bytes_out": (10 + 2 * label) + (10 + label),
        "in_splits": (10 + 2 * label, 10 + label),
        "out_splits": (10 + 2 * label, 10 + label),
    }
    assert home.fields(1)["in_splits"] == (10, 10)
    gather = PATTERNS["home"](visits, SIZES, "forward")[0]
    assert gather.fields(1) == {"op": "all_gather", "dtype": "int64", "bytes_in": 48, "bytes_out": 96}


def test_the_description_is_free_of_torch() -> None:
    code = "import sys, moe.dispatch.coherent_messages, moe.dispatch.messages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
