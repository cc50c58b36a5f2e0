"""How many choices of an expert each of its replicas serves, and which.

A quota counts the choices of one source rank and expert that go to one rank. It is a function of counts alone, so
that every rank that knows the counts knows the quotas. Dealing is written once for numpy arrays and for torch tensors:
a run and its replay follow the same lines.

Shape legend: T tokens of a source rank, K choices of a token, R source ranks, E experts of a layer, G ranks of the
expert-parallel group, H ranks that hold one expert, P slots of the group.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.replica.slots import Slots

Counts = NDArray[np.int64]
Holders = NDArray[np.bool_]


def even_quotas(counts_RE: Counts, holders_EG: Holders, layer: int, *, first_source: int = 0) -> Counts:
    """Split the choices of every source rank evenly over the replicas: int64 [R, E, G].

    What does not divide goes to one replica after the other, beginning at one that source rank, expert and layer
    decide. So a source needs its own counts only; the first row of the counts is of `first_source`.
    """
    holders = np.asarray(holders_EG, dtype=bool)
    number_E = holders.sum(axis=1)
    sources = np.arange(first_source, first_source + len(counts_RE))
    start_RE = (sources[:, None] + np.arange(len(holders)) + layer) % number_E
    place_EG = holders.cumsum(axis=1) - 1
    each_RE, left_RE = np.divmod(np.asarray(counts_RE, dtype=np.int64), number_E)
    turn_REG = (place_EG - start_RE[:, :, None]) % number_E[:, None]
    return np.where(holders, each_RE[:, :, None] + (turn_REG < left_RE[:, :, None]), 0)


def least_loaded_quotas(counts_RE: Counts, holders_EG: Holders, layer: int) -> Counts:
    """Split the choices so that the busiest rank computes as few as possible: int64 [R, E, G].

    A source uses the replica on its own rank first, as far as that serves; source r is rank r of the group. The layer
    decides which of equal ranks takes a choice that does not divide.
    """
    counts = np.asarray(counts_RE, dtype=np.int64)
    served_EG = least_loaded_shares(counts.sum(axis=0), holders_EG, layer)
    quotas_REG = np.zeros((*counts.shape, served_EG.shape[1]), dtype=np.int64)
    own = np.arange(min(len(counts), served_EG.shape[1]))
    quotas_REG[own, :, own] = np.minimum(counts[own], served_EG.T[own])
    return quotas_REG + _overlaps(counts - quotas_REG.sum(axis=2), served_EG - quotas_REG.sum(axis=0))


def least_loaded_shares(counts_E: Counts, holders_EG: Holders, layer: int) -> Counts:
    """Choices that each rank serves if the busiest rank is to serve as few as possible, int64 [E, G].

    Experts with several holders are levelled in turn; then choices move along chains of replicas away from the busiest
    ranks. Once no chain leaves them, the ranks within reach serve only choices that no other rank can serve, and the
    busiest is at most one above their mean: no split is better.
    """
    holders = np.asarray(holders_EG, dtype=bool)
    number_E = holders.sum(axis=1)
    served_EG = np.where(holders & (number_E == 1)[:, None], np.asarray(counts_E, dtype=np.int64)[:, None], 0)
    loads_G = served_EG.sum(axis=0)
    shared = np.flatnonzero((number_E > 1) & (counts_E > 0))
    ranks_of = {expert: np.roll(np.flatnonzero(holders[expert]), -int(expert + layer)) for expert in shared}
    for expert in sorted(ranks_of, key=lambda expert: (number_E[expert], -counts_E[expert], expert)):
        loads_G[ranks_of[expert]] += (share := _levelled(loads_G[ranks_of[expert]], int(counts_E[expert])))
        served_EG[expert, ranks_of[expert]] = share
    shared_EG = served_EG[shared]
    while _relieve_the_busiest(shared_EG, loads_G, holders[shared]):
        pass
    served_EG[shared] = shared_EG
    return served_EG


def _levelled(loads_H: Counts, choices: int) -> Counts:
    """Split of the choices that raises the least loaded ranks to one level."""
    order = np.argsort(loads_H, kind="stable")
    ascending = loads_H[order]
    room = ascending * np.arange(len(order)) - (ascending.cumsum() - ascending)
    below = int(np.searchsorted(room, choices, side="right"))
    level, left = divmod(choices + int(ascending[:below].sum()), below)
    share_H = np.zeros_like(loads_H)
    share_H[order[:below]] = level - ascending[:below] + (np.arange(below) < left)
    return share_H


def _relieve_the_busiest(served_EG: Counts, loads_G: Counts, holders_EG: Holders) -> bool:
    """Moves choices from a busiest rank along a shortest chain of replicas to one with two or more fewer, if any.

    Choices and loads change in place.
    """
    most = int(loads_G.max(initial=0))
    reached = loads_G == most
    previous_G = np.full(len(loads_G), -1)
    edge = reached
    while not (ends := edge & (loads_G <= most - 2)).any():
        gives_EG = served_EG * edge > 0
        takes_EG = holders_EG & gives_EG.any(axis=1)[:, None] & ~reached
        edge = takes_EG.any(axis=0)
        if not edge.any():
            return False
        for rank in np.flatnonzero(edge):
            previous_G[rank] = gives_EG[takes_EG[:, rank]].any(axis=0).argmax()
        reached = reached | edge
    chain = [int(np.flatnonzero(ends)[loads_G[ends].argmin()])]
    while previous_G[chain[-1]] >= 0:
        chain.append(int(previous_G[chain[-1]]))
    hops = [(source, target) for target, source in itertools.pairwise(chain)]
    movable = [served_EG[:, source] * holders_EG[:, target] for source, target in hops]
    experts = [int(of_hop.argmax()) for of_hop in movable]
    moved = min((most - int(loads_G[chain[0]])) // 2, *(int(m[e]) for m, e in zip(movable, experts, strict=True)))
    for (source, target), expert in zip(hops, experts, strict=True):
        served_EG[expert, source] -= moved
        served_EG[expert, target] += moved
    loads_G[chain[-1]] -= moved
    loads_G[chain[0]] += moved
    return True


def _overlaps(rows_RE: Counts, columns_EG: Counts) -> Counts:
    """Fills the ranks of each expert in order with the choices of its sources in order, [R, E, G]; as many of both."""
    row_ends_RE, column_ends_EG = rows_RE.cumsum(axis=0), columns_EG.cumsum(axis=1)
    ends = np.minimum(row_ends_RE[:, :, None], column_ends_EG)
    starts = np.maximum((row_ends_RE - rows_RE)[:, :, None], column_ends_EG - columns_EG)
    return np.maximum(ends - starts, 0)


QUOTAS: dict[str, Callable[[Counts, Holders, int], Counts]] = {"even": even_quotas, "least_loaded": least_loaded_quotas}
"""How the choices of an expert are split over its replicas, by the name in a run's configuration."""


def deal(map_TP: Any, quotas_EG: NDArray[np.int64], slots: Slots) -> None:
    """Gives every choice of a replicated expert to one of its slots, in place.

    Experts with replicas are dealt in order of their ids. A token takes by preference a replica on a rank that it
    visits anyway; first those tokens choose that visit one holder alone, then those that visit several, then the
    others, always in the order of tokens.

    Args:
        map_TP: Whether a token chose the expert of a slot, bool, numpy array or torch tensor; choices of an expert with
            replicas are in all its slots before, and in one of them afterwards.
        quotas_EG: Choices of each expert that each rank serves; for every expert as many in all as there are choices.
        slots: The slots.
    """
    numbers = np.arange(slots.experts.size).reshape(slots.experts.shape)
    several_E = slots.holders.sum(axis=1) > 1
    visits = [map_TP[:, numbers[rank][~several_E[own]].tolist()].any(axis=1) for rank, own in enumerate(slots.experts)]
    for expert in np.flatnonzero(several_E):
        ranks, columns = np.nonzero(slots.experts == expert)
        places = numbers[ranks, columns].tolist()
        waiting = map_TP[:, places[0]] & map_TP[:, places[0]]
        left: list[Any] = [int(quotas_EG[expert, rank]) for rank in ranks]
        taken = [waiting & ~waiting for _ in ranks]
        known = [visits[rank] for rank in ranks]
        number = sum(visit * 1 for visit in known)
        for eligible in (number == 1, number > 1):
            for index, visit in enumerate(known):
                asking = waiting & visit & eligible
                served = asking & (asking.cumsum(axis=0) <= left[index])
                left[index] = left[index] - served.sum()
                taken[index] = taken[index] | served
                waiting = waiting & ~served
        place, end = waiting.cumsum(axis=0), 0
        for index, rank in enumerate(ranks):
            start, end = end, end + left[index]
            taken[index] = taken[index] | (waiting & (place > start) & (place <= end))
            map_TP[:, places[index]] = taken[index]
            visits[rank] = visits[rank] | taken[index]


def served_choices(
    chosen: Sequence[tuple[int, NDArray[np.integer]]], slots: Slots, rule: str, layer: int
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Whether a token is served by a slot, bool [T, P], for each source rank of a group in a layer and micro batch.

    `chosen` are the experts of each source rank's tokens, [T, K], -1 where dropped; `rule` is one of `QUOTAS`.
    """
    maps = [(source, _map_of(ids_TK, slots.num_experts)) for source, ids_TK in chosen]
    counts_RE = np.zeros((slots.num_ranks, slots.num_experts), dtype=np.int64)
    for source, map_TE in maps:
        counts_RE[source] += map_TE.sum(axis=0)
    quotas_REG = QUOTAS[rule](counts_RE, slots.holders, layer)
    served = []
    for source, map_TE in maps:
        map_TP = map_TE[:, slots.experts.reshape(-1)]
        deal(map_TP, quotas_REG[source], slots)
        served.append((source, map_TP))
    return served


def _map_of(ids_TK: NDArray[np.integer], num_experts: int) -> NDArray[np.bool_]:
    map_TE = np.zeros((len(ids_TK), num_experts + 1), dtype=bool)
    np.put_along_axis(map_TE, ids_TK, True, axis=1)  # a dropped choice, -1, falls into the last column
    return map_TE[:, :-1]
