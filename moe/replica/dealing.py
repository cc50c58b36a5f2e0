"""Which replica serves each choice, within the quotas.

The rule is written once for numpy arrays and for torch tensors: a run and its replay follow the same lines.

Shape legend: T tokens of a source rank, K choices of a token, E experts, G ranks of the expert-parallel group,
P slots of the group.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.replica.quotas import QUOTAS
from moe.replica.slots import Slots


def deal(map_TP: Any, quotas_EG: NDArray[np.int64], slots: Slots) -> None:
    """Gives every choice of a replicated expert to one of its slots, in place.

    Experts with replicas are dealt in order of their ids. A token takes by preference a replica on a rank that it
    visits anyway; first those tokens choose that visit one holder alone, then those that visit several, then the
    others, always in the order of tokens.

    Args:
        map_TP: Whether a token chose the expert of a slot, bool, numpy array or torch tensor; choices of an expert with
            replicas stand in all its slots before, and in one of them afterwards.
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
    """What every rank of a group would send in a layer and micro batch.

    Args:
        chosen: For each source rank of the group its tokens' experts [T, K], -1 where dropped.
        slots: The slots.
        rule: How quotas are made, one of `QUOTAS`.
        layer: Block of the layer.

    Returns:
        For each source rank, whether a token is served by a slot, bool [T, P].
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
