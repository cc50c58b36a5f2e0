"""Replicas: slots of a layer whose experts may be on several ranks, the homes among them, and shares of the choices.

The home has the expert's parameters and optimiser state; replicas borrow its weights.

A quota counts the choices of one source rank and expert that go to one rank. It is a function of counts alone, so
that every rank that knows the counts knows the quotas. Dealing is written once for numpy arrays and for torch tensors:
a run and its replay follow the same lines.

Shape legend: T tokens of a source rank, K choices of a token, R source ranks, E experts of a layer, G ranks of the
expert-parallel group, H ranks that hold one expert, S slots of a rank, P = G * S slots.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Slots:
    """The experts in the slots of one layer; on every rank first the E / G experts at home there, then replicas.

    Attributes:
        experts: Logical expert of each slot, int64 [G, S].
        num_experts: Experts E.
    """

    experts: Ints
    num_experts: int

    @classmethod
    def of(cls, slot_to_expert: NDArray[np.integer], num_experts: int, num_ranks: int) -> Self:
        """Finds the homes; within a rank, homes and replicas keep their order.

        Each expert prefers the holder that has it in the earliest slot, then the lowest rank, and experts choose in
        order of their ids. So if the first E / G slots of all ranks hold every expert once, these are the homes.

        Raises:
            ValueError: The slots do not divide among the ranks, an expert is twice on a rank or nowhere, or no choice
                of homes gives every rank E / G experts.
        """
        slots = np.asarray(slot_to_expert, dtype=np.int64)
        if len(slots) == num_experts and not np.array_equal(np.sort(slots), np.arange(num_experts)):
            raise ValueError(f"slot_to_expert: is not an order of {num_experts} experts ({slots}); name each once")
        if len(slots) % num_ranks or not np.array_equal(np.unique(slots), np.arange(num_experts)):
            raise ValueError(
                f"slot_to_expert: {len(slots)} slots of {num_ranks} ranks do not hold experts 0 to {num_experts - 1} "
                "with equally many slots on each rank; name every expert at least once"
            )
        by_rank = slots.reshape(num_ranks, -1)
        if any(len(set(row)) < len(row) for row in by_rank.tolist()):
            raise ValueError(f"slot_to_expert: an expert is twice on one rank ({by_rank.tolist()}); name another there")
        at_home = _homes(by_rank, num_experts)[by_rank] == np.arange(num_ranks)[:, None]
        order = np.argsort(~at_home, axis=1, kind="stable")
        return cls(np.take_along_axis(by_rank, order, axis=1), num_experts)

    @property
    def num_ranks(self) -> int:
        """Ranks G of the group."""
        return len(self.experts)

    @property
    def slots_per_rank(self) -> int:
        """Slots S of a rank."""
        return self.experts.shape[1]

    @property
    def homes_per_rank(self) -> int:
        """Experts that are at home on a rank, E / G."""
        return self.num_experts // self.num_ranks

    @property
    def has_replicas(self) -> bool:
        """Whether any expert is on several ranks."""
        return self.slots_per_rank > self.homes_per_rank

    @property
    def homes(self) -> Ints:
        """Experts at home on each rank, in the order of its parameters, [G, E / G]."""
        return self.experts[:, : self.homes_per_rank]

    @property
    def replicas(self) -> Ints:
        """Experts that each rank holds as replicas, [G, S - E / G]."""
        return self.experts[:, self.homes_per_rank :]

    @cached_property
    def home_ranks(self) -> Ints:
        """Rank of each expert's home, [E]."""
        return np.argsort(self.homes, axis=None) // self.homes_per_rank

    @cached_property
    def holders(self) -> NDArray[np.bool_]:
        """Whether a rank holds an expert, [E, G]."""
        holders = np.zeros((self.num_experts, self.num_ranks), dtype=bool)
        holders[self.experts, np.arange(self.num_ranks)[:, None]] = True
        return holders

    @cached_property
    def copies(self) -> Ints:
        """Replicas by the rank of their home and the rank that holds them, [G, G]."""
        copies = np.zeros((self.num_ranks, self.num_ranks), dtype=np.int64)
        np.add.at(copies, (self.home_ranks[self.replicas], np.arange(self.num_ranks)[:, None]), 1)
        return copies

    def with_homes(self, homes_E: Ints) -> Ints:
        """Slots [P] with the same replicas and other homes, rank after rank."""
        return np.hstack([homes_E.reshape(self.num_ranks, -1), self.replicas]).reshape(-1)

    def of_quotas(self, quotas_REG: Ints) -> Ints:
        """Quotas by slot, [R, P]."""
        ranks = np.repeat(np.arange(self.num_ranks), self.slots_per_rank)
        return quotas_REG[:, self.experts.reshape(-1), ranks]


def home_slots(slot_to_expert: NDArray[np.integer], num_experts: int, num_ranks: int) -> Ints:
    """Experts of all layers at their homes, [L, E], out of slots [L, P]; the argument itself without replicas."""
    layers = [Slots.of(slots, num_experts, num_ranks).homes.reshape(-1) for slots in slot_to_expert]
    return np.stack(layers) if layers else np.zeros((0, num_experts), dtype=np.int64)


def _homes(experts_GS: Ints, num_experts: int) -> Ints:
    """Rank of each expert's home, by paths that move earlier experts to another of their holders."""
    capacity = num_experts // len(experts_GS)
    places = sorted((slot, rank, int(expert)) for (rank, slot), expert in np.ndenumerate(experts_GS))
    holders: list[list[int]] = [[] for _ in range(num_experts)]
    for _, rank, expert in places:
        holders[expert].append(rank)
    guests: list[list[int]] = [[] for _ in experts_GS]

    def settle(expert: int, asked: set[int]) -> bool:
        for rank in holders[expert]:
            if len(guests[rank]) < capacity:
                guests[rank].append(expert)
                return True
        for rank in holders[expert]:
            if rank not in asked:
                asked.add(rank)
                for guest in guests[rank]:
                    if settle(guest, asked):
                        guests[rank].remove(guest)
                        guests[rank].append(expert)
                        return True
        return False

    for expert in range(num_experts):
        if not settle(expert, set()):
            raise ValueError(
                f"slot_to_expert: no choice of homes gives each of {len(experts_GS)} ranks {capacity} of {num_experts} "
                f"experts (expert {expert} finds none); put some experts on other ranks as well, or place without "
                "replicas"
            )
    homes = np.empty(num_experts, dtype=np.int64)
    for rank, of_rank in enumerate(guests):
        homes[of_rank] = rank
    return homes


Holders = NDArray[np.bool_]


def even_quotas(counts_RE: Ints, holders_EG: Holders, layer: int, *, first_source: int = 0) -> Ints:
    """Split the choices of every source rank evenly over the replicas: int64 [R, E, G].

    The remainder goes to one replica after the other. Source rank, expert and layer decide the first of them, so that
    a source needs its own counts only. The first row of the counts is of source rank `first_source`.
    """
    holders = np.asarray(holders_EG, dtype=bool)
    number_E = holders.sum(axis=1)
    sources = np.arange(first_source, first_source + len(counts_RE))
    start_RE = (sources[:, None] + np.arange(len(holders)) + layer) % number_E
    place_EG = holders.cumsum(axis=1) - 1
    each_RE, left_RE = np.divmod(np.asarray(counts_RE, dtype=np.int64), number_E)
    turn_REG = (place_EG - start_RE[:, :, None]) % number_E[:, None]
    return np.where(holders, each_RE[:, :, None] + (turn_REG < left_RE[:, :, None]), 0)


def least_loaded_quotas(counts_RE: Ints, holders_EG: Holders, layer: int) -> Ints:
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


def least_loaded_shares(counts_E: Ints, holders_EG: Holders, layer: int) -> Ints:
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


def _levelled(loads_H: Ints, choices: int) -> Ints:
    """Split of the choices that raises the least loaded ranks to one level."""
    order = np.argsort(loads_H, kind="stable")
    ascending = loads_H[order]
    capacity = ascending * np.arange(len(order)) - (ascending.cumsum() - ascending)
    below = int(np.searchsorted(capacity, choices, side="right"))
    level, left = divmod(choices + int(ascending[:below].sum()), below)
    share_H = np.zeros_like(loads_H)
    share_H[order[:below]] = level - ascending[:below] + (np.arange(below) < left)
    return share_H


def _relieve_the_busiest(served_EG: Ints, loads_G: Ints, holders_EG: Holders) -> bool:
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


def _overlaps(rows_RE: Ints, columns_EG: Ints) -> Ints:
    """Assigns each expert's choices, in order of source ranks, to its ranks in order, [R, E, G]; sums must agree."""
    row_ends_RE, column_ends_EG = rows_RE.cumsum(axis=0), columns_EG.cumsum(axis=1)
    ends = np.minimum(row_ends_RE[:, :, None], column_ends_EG)
    starts = np.maximum((row_ends_RE - rows_RE)[:, :, None], column_ends_EG - columns_EG)
    return np.maximum(ends - starts, 0)


QUOTAS: dict[str, Callable[[Ints, Holders, int], Ints]] = {"even": even_quotas, "least_loaded": least_loaded_quotas}
"""The rules that split an expert's choices over its replicas, by the name in a run's configuration."""


def deal(map_TP: Any, quotas_EG: NDArray[np.int64], slots: Slots) -> None:
    """Gives every choice of a replicated expert to one of its slots, in place.

    Experts with replicas are dealt in order of their ids. A token prefers a replica on a rank that it visits anyway.
    Tokens that visit exactly one holder choose first, then those that visit several, then the others, each group in
    the order of tokens.

    Args:
        map_TP: Whether a token chose the expert of a slot, bool, numpy array or torch tensor; choices of an expert with
            replicas are in all its slots before, and in one of them afterwards.
        quotas_EG: Choices of each expert that each rank serves; for every expert as many in all as there are choices.
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
