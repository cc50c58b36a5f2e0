"""Choices dealt to replicas: quotas are kept, ranks that a token visits anyway come first, torch and numpy agree."""

import itertools
from itertools import product

import numpy as np
import torch

from moe.replica import QUOTAS, Slots, deal, served_choices
from tests.each import each

SLOTS = Slots.of(np.ravel([[0, 1, 4, 2, 6], [2, 3, 0, 5, 1], [4, 5, 0, 2, 7], [6, 7, 0, 1, 3]]), 8, 4)
TOKENS, LAYER = 60, 3


def chosen(seed: int, top_k: int = 3) -> list[tuple[int, np.ndarray]]:
    """Choices of four source ranks, some of them dropped; one rank has no tokens."""
    rng = np.random.default_rng(seed)
    sources = []
    for source in range(4):
        ids = np.stack([rng.permutation(8)[:top_k] for _ in range(TOKENS)])[: 0 if source == 2 else TOKENS]
        sources.append((source, np.where(rng.random(ids.shape) < 0.2, -1, ids)))
    return sources


def counts_of(sources: list[tuple[int, np.ndarray]]) -> np.ndarray:
    return np.stack([np.bincount(ids[ids >= 0], minlength=8) for _, ids in sources])


@each("rule, seed", product(QUOTAS, range(5)))
def test_every_choice_is_served_once_and_quotas_are_kept(rule: str, seed: int) -> None:
    sources = chosen(seed)
    quotas = QUOTAS[rule](counts_of(sources), SLOTS.holders, LAYER)
    for (source, map_TP), (_, ids_TK) in zip(served_choices(sources, SLOTS, rule, LAYER), sources, strict=True):
        for slot, (rank, place) in enumerate(itertools.product(range(4), range(5))):
            assert map_TP[:, slot].sum() == quotas[source, SLOTS.experts[rank, place], rank]
        for row, ids in zip(map_TP, ids_TK, strict=True):
            assert sorted(SLOTS.experts.reshape(-1)[row]) == sorted(ids[ids >= 0])


@each("rule, seed", product(QUOTAS, range(3)))
def test_torch_and_numpy_deal_alike(rule: str, seed: int) -> None:
    sources = chosen(seed)
    quotas = QUOTAS[rule](counts_of(sources), SLOTS.holders, LAYER)
    for (source, served_TP), (_, ids_TK) in zip(served_choices(sources, SLOTS, rule, LAYER), sources, strict=True):
        chosen_TE = torch.zeros(len(ids_TK), 9, dtype=torch.bool).scatter(1, torch.tensor(ids_TK) % 9, value=True)[
            :, :8
        ]
        map_TP = chosen_TE[:, torch.tensor(SLOTS.experts.reshape(-1))]
        deal(map_TP, quotas[source], SLOTS)
        np.testing.assert_array_equal(map_TP.numpy(), served_TP)


def test_tokens_take_a_replica_where_they_go_anyway() -> None:
    """Expert 0 is on both ranks; tokens that visit one of them alone take it there, in spite of their order."""
    slots = Slots.of(np.ravel([[0, 1, 4], [2, 3, 0], [5, 4, 2]]), 6, 3)
    ids = np.array([[0, 5], [0, 3], [0, 1], [0, 5]])  # ranks 2, 1, 0 and 2
    map_TP = (ids[:, :, None] == slots.experts.reshape(-1)).any(axis=1)
    quotas = np.zeros((6, 3), dtype=np.int64)
    quotas[0] = [2, 2, 0]
    deal(map_TP, quotas, slots)
    served_by = [slots.num_ranks] * 4
    for token, slot in np.argwhere(map_TP):
        if slots.experts.reshape(-1)[slot] == 0:
            served_by[token] = slot // 3
    assert served_by == [0, 1, 0, 1]


@each("seed", range(5))
def test_with_two_holders_no_dealing_within_the_quotas_saves_more_visits(seed: int) -> None:
    """Against all ways to deal the choices of one expert."""
    rng = np.random.default_rng(seed)
    slots = Slots.of(np.ravel([[0, 1, 2, 6], [3, 4, 5, 0], [6, 7, 8, 3]]), 9, 3)
    ids = np.stack([np.append(0, 1 + rng.permutation(8)[:2]) for _ in range(8)])
    ids = ids[~np.isin(ids, [3, 6]).any(axis=1)]  # expert 0 alone is dealt
    half = len(ids) // 2
    quotas = np.zeros((9, 3), dtype=np.int64)
    quotas[0] = [half, len(ids) - half, 0]
    map_TP = (ids[:, :, None] == slots.experts.reshape(-1)).any(axis=1)
    deal(map_TP, quotas, slots)
    visits = map_TP.reshape(len(ids), 3, -1).any(axis=2).sum()

    others = [{int(slots.home_ranks[expert]) for expert in row if expert} for row in ids]
    best = min(
        sum(len(ranks | {0 if token in first else 1}) for token, ranks in enumerate(others))
        for first in itertools.combinations(range(len(ids)), half)
    )
    assert visits == best
