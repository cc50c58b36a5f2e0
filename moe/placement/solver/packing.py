"""Load packing: every rank of a layer computes about as many choices, with replicas of busy experts or without.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, P slots of all ranks together.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 512  # packed layers


def pack_layer(loads: NDArray[np.integer], num_ranks: int, slots_per_rank: int) -> NDArray[np.bool_]:
    """Pack the experts of one layer: holders, bool [E, G], as many experts on every rank, no expert twice on one."""
    return _packed(tuple(loads.tolist()), num_ranks, slots_per_rank).copy()


@lru_cache(maxsize=_REMEMBERED)
def _packed(loads_of_experts: tuple[int, ...], num_ranks: int, slots_per_rank: int) -> NDArray[np.bool_]:
    """Does the work of `pack_layer`, with the loads as a tuple so that results are cached."""
    loads = np.array(loads_of_experts)
    copies = count_copies(loads, num_ranks, slots_per_rank * num_ranks)
    share = loads / copies
    holders = np.zeros((len(loads), num_ranks), dtype=bool)
    for expert in np.repeat(np.argsort(-share, kind="stable"), copies[np.argsort(-share, kind="stable")]):
        free = holders.sum(axis=0) < slots_per_rank
        fitting = free & ~holders[expert]
        if not fitting.any():
            _make_room(holders, int(expert), free)
            fitting = (holders.sum(axis=0) < slots_per_rank) & ~holders[expert]
        holders[expert, np.where(fitting, share @ holders, np.inf).argmin()] = True
    _exchange(holders, share)
    return holders


def count_copies(loads: NDArray[np.integer], num_ranks: int, num_slots: int) -> NDArray[np.int64]:
    """Share the slots among the experts: one each, then one more to the largest load per copy, again and again."""
    copies = np.ones(len(loads), np.int64)
    for _ in range(num_slots - len(loads)):
        copies[np.where(copies < num_ranks, loads / copies, -1).argmax()] += 1
    return copies


def busiest(loads: NDArray[np.integer], holders: NDArray[np.bool_]) -> float:
    """Load of the busiest rank of a layer where the copies of an expert share its load evenly."""
    return float(((loads / holders.sum(axis=1)) @ holders).max())


def _make_room(holders: NDArray[np.bool_], expert: int, free: NDArray[np.bool_]) -> None:
    """Free a slot for an expert that all ranks with a free slot hold already, by moving another one to such a rank."""
    for giver in np.flatnonzero(~holders[expert]):
        for taker in np.flatnonzero(free):
            movable = np.flatnonzero(holders[:, giver] & ~holders[:, taker])
            if len(movable):
                holders[movable[-1], [giver, taker]] = False, True
                return
    raise AssertionError("an expert has more copies than there are ranks")


def _exchange(holders: NDArray[np.bool_], share: NDArray[np.float64]) -> None:
    """Exchange experts of the busiest rank for lighter ones of others while that lowers the larger of both loads."""
    least = 1e-9 * max(float(share.sum()), 1e-300)
    while True:
        loads = share @ holders
        top = int(loads.argmax())
        best, move = loads[top] - least, None
        for rank in np.argsort(loads, kind="stable"):
            given = np.flatnonzero(holders[:, top] & ~holders[:, rank])
            taken = np.flatnonzero(holders[:, rank] & ~holders[:, top])
            if rank == top or not len(given) or not len(taken):
                continue
            change = share[given][:, None] - share[taken]
            worst = np.maximum(loads[top] - change, loads[rank] + change)
            place = np.unravel_index(worst.argmin(), worst.shape)
            if worst[place] < best:
                best, move = worst[place], (given[place[0]], taken[place[1]], rank)
        if move is None:
            return
        heavy, light, rank = move
        holders[heavy, [top, rank]] = False, True
        holders[light, [top, rank]] = True, False
