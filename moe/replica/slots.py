"""Slots of a layer whose experts may have replicas, and which of an expert's holders is its home.

The home has the expert's parameters and optimiser state; replicas borrow its weights.

Shape legend: E experts of a layer, G ranks of the expert-parallel group, S slots of a rank, P = G * S slots.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

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
    room = num_experts // len(experts_GS)
    places = sorted((slot, rank, int(expert)) for (rank, slot), expert in np.ndenumerate(experts_GS))
    holders: list[list[int]] = [[] for _ in range(num_experts)]
    for _, rank, expert in places:
        holders[expert].append(rank)
    guests: list[list[int]] = [[] for _ in experts_GS]

    def settle(expert: int, asked: set[int]) -> bool:
        for rank in holders[expert]:
            if len(guests[rank]) < room:
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
                f"slot_to_expert: no choice of homes gives each of {len(experts_GS)} ranks {room} of {num_experts} "
                f"experts (expert {expert} finds none); put some experts on other ranks as well, or place without "
                "replicas"
            )
    homes = np.empty(num_experts, dtype=np.int64)
    for rank, of_rank in enumerate(guests):
        homes[of_rank] = rank
    return homes
