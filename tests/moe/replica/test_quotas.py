"""Quotas of replicas: they add up, they are a function of the counts, and the busiest rank serves least."""

import itertools
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import LinearConstraint, milp

from moe.replica import even_quotas, least_loaded_quotas, least_loaded_shares
from tests.each import each

QUOTAS = [even_quotas, least_loaded_quotas]


def holders(rng: np.random.Generator, experts: int, ranks: int) -> np.ndarray:
    held = rng.random((experts, ranks)) < rng.choice([0.1, 0.3, 0.7])
    held[np.arange(experts), rng.integers(ranks, size=experts)] = True
    return held


def counts(rng: np.random.Generator, ranks: int, experts: int) -> np.ndarray:
    return rng.poisson(rng.choice([1, 20]) * rng.zipf(1.5, size=experts).clip(max=50), size=(ranks, experts))


def least_maximum(totals_E: Any, holders_EG: np.ndarray) -> int:
    """The least load of the busiest rank, by an integer programme over (share of each expert and rank, maximum)."""
    experts, ranks = holders_EG.shape
    shares = np.eye(experts * ranks).reshape(experts, ranks, -1)
    sums = np.hstack([shares.sum(axis=1), np.zeros((experts, 1))])
    loads = np.hstack([shares.sum(axis=0), -np.ones((ranks, 1))])
    bounds = np.append(np.where(holders_EG.ravel(), totals_E.sum(), 0), totals_E.sum())
    limit: Any = np.zeros(ranks)
    constraints: Any = [LinearConstraint(sums, totals_E, totals_E), LinearConstraint(loads, limit - np.inf, limit)]
    result = milp(
        np.eye(experts * ranks + 1)[-1],
        constraints=constraints,
        bounds=(0, bounds),
        integrality=np.ones(experts * ranks + 1),
    )
    return round(result.fun)


@each("quotas, seed", product(QUOTAS, range(20)))
def test_every_choice_goes_to_a_holder(quotas, seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = holders(rng, 12, 4)
    counts_RE = counts(rng, 4, 12)
    served = quotas(counts_RE, held, layer=seed % 3)
    assert served.dtype == np.int64
    assert served.min() >= 0
    np.testing.assert_array_equal(served.sum(axis=2), counts_RE)
    assert not served[:, ~held].any()
    np.testing.assert_array_equal(served, quotas(counts_RE.copy(), held.copy(), layer=seed % 3))


@each("seed", range(10))
def test_even_quotas_differ_by_one_and_need_only_a_rank_s_own_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    held, counts_RE = holders(rng, 8, 4), counts(rng, 4, 8)
    served = even_quotas(counts_RE, held, layer=2)
    for source, expert in itertools.product(range(4), range(8)):
        own = served[source, expert, held[expert]]
        assert own.max() - own.min() <= 1
        alone = even_quotas(counts_RE[source : source + 1], held, layer=2, first_source=source)
        np.testing.assert_array_equal(alone[0], served[source])


def test_remainders_of_even_quotas_rotate_with_source_expert_and_layer() -> None:
    held, ones = np.ones((4, 4), dtype=bool), np.ones((4, 4), dtype=np.int64)
    layers = np.stack([even_quotas(ones, held, layer) for layer in range(4)])
    for axis in range(3):
        np.testing.assert_array_equal(layers.sum(axis=axis), 1)


@each("seed", range(40))
def test_the_busiest_rank_serves_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = int(rng.integers(2, 6))
    held, counts_RE = holders(rng, 10, ranks), counts(rng, ranks, 10)
    served = least_loaded_quotas(counts_RE, held, layer=0)
    assert served.sum(axis=(0, 1)).max() == least_maximum(counts_RE.sum(axis=0), held)


def test_one_expert_on_every_rank_is_spread_to_the_last_choice() -> None:
    shares = least_loaded_shares(np.array([103]), np.ones((1, 4), dtype=bool), layer=1)
    assert sorted(shares[0]) == [25, 26, 26, 26]


def test_a_source_uses_its_own_replica_first() -> None:
    counts_RE = np.array([[10, 0], [10, 0]])
    served = least_loaded_quotas(counts_RE, np.array([[True, True], [False, True]]), layer=0)
    np.testing.assert_array_equal(served[:, 0], [[10, 0], [0, 10]])


def test_a_chain_of_replicas_relieves_a_rank_that_shares_no_expert_with_an_idle_one() -> None:
    held = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=bool)
    served = least_loaded_shares(np.array([60, 60, 60, 60]), held, layer=0)
    np.testing.assert_array_equal(served.sum(axis=0), [60, 60, 60, 60])


@each("quotas", QUOTAS)
def test_without_replicas_every_choice_goes_to_the_one_holder(quotas) -> None:
    counts_RE = np.arange(8).reshape(2, 4)
    held = np.repeat(np.eye(2, dtype=bool), 2, axis=0)
    np.testing.assert_array_equal(quotas(counts_RE, held, layer=1), counts_RE[:, :, None] * held)
