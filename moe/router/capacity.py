"""Capacity: the hard limit on the choices that an expert takes.

Shape suffixes: T tokens, E experts, K experts of a token, R tokens with fewer experts than their due.
"""

import math

import torch
from torch import Tensor


def slots_per_expert(choices: int, num_experts: int, factor: float) -> int:
    """Largest number of choices that an expert takes.

    Args:
        choices: choices of all tokens, tokens times experts a token.
        num_experts: experts that share them.
        factor: multiple of the mean load.

    Returns:
        The multiple, rounded up to whole choices.
    """
    return math.ceil(round(factor * choices / num_experts, 6))


def keep_largest(values_TE: Tensor, map_TE: Tensor, slots_E: Tensor | int) -> Tensor:
    """Cuts every column of a routing map to its largest values; among equal ones the earlier token stays.

    Args:
        values_TE: value of each choice to its expert.
        map_TE: bool, the choices.
        slots_E: choices that each column keeps, at least 0; one for all, or int64 [E].

    Returns:
        bool [T, E].
    """
    order_TE = values_TE.masked_fill(~map_TE, -torch.inf).argsort(dim=0, descending=True, stable=True)
    places_TE = torch.arange(len(map_TE), device=map_TE.device)[:, None].expand_as(order_TE)
    return map_TE & (torch.empty_like(order_TE).scatter_(0, order_TE, places_TE) < slots_E)


def keep_first(map_TE: Tensor, slots: int) -> Tensor:
    """Cuts every column of a routing map to its first tokens.

    Args:
        map_TE: bool, the choices.
        slots: choices that each column keeps.

    Returns:
        bool [T, E].
    """
    return map_TE & (map_TE.cumsum(dim=0) <= slots)


def cut_by_margin(scores_TE: Tensor, map_TE: Tensor, slots_E: Tensor, due: int) -> Tensor:
    """Cuts full experts to their capacity, then gives tokens with fewer than `due` experts one with a free slot.

    A full expert keeps the choices of largest margin: the score of the choice less the best other score that its token
    could fall back to. Choices beyond a token's due get the slots that are left in the end.

    Args:
        scores_TE: score of each expert for each token.
        map_TE: bool, the choices: of each token its best ones, at least `due`.
        slots_E: choices that each expert keeps, int64.
        due: experts that each token is to visit.

    Returns:
        bool [T, E]. No column is over its slots and no row longer than it was. With due 1 and as many slots as tokens,
        no token is without an expert.
    """
    if len(scores_TE) == 0 or bool((map_TE.sum(dim=0) <= slots_E).all()):
        return map_TE
    ranked = scores_TE.topk(min(due + 1, scores_TE.shape[1]), dim=1)
    last_due_T1, next_T1 = ranked.values[:, due - 1 : due], ranked.values[:, -1:]
    margins_TE = scores_TE - torch.where(scores_TE >= last_due_T1, next_T1, last_due_T1)
    due_TE = map_of(ranked.indices[:, :due], scores_TE.shape[1])
    kept_TE = _serve(scores_TE, keep_largest(margins_TE, due_TE, slots_E), slots_E, due)
    return kept_TE | keep_largest(margins_TE, map_TE & ~kept_TE, slots_E - kept_TE.sum(dim=0))


def map_of(indices_TK: Tensor, num_experts: int) -> Tensor:
    """Turns lists of experts into a routing map.

    Args:
        indices_TK: experts of each token, int64.
        num_experts: columns of the map.

    Returns:
        bool [T, E].
    """
    chosen = indices_TK.new_zeros([len(indices_TK), num_experts], dtype=torch.bool)
    return chosen.scatter(1, indices_TK, torch.ones_like(indices_TK, dtype=torch.bool))


def _serve(scores_TE: Tensor, map_TE: Tensor, slots_E: Tensor, due: int) -> Tensor:
    """Gives tokens with fewer than their due one free slot after another; the best offer to an expert wins it."""
    while True:
        room_E = slots_E - map_TE.sum(dim=0)
        short_R = (map_TE.sum(dim=1) < due).nonzero()[:, 0]
        offers_RE = scores_TE[short_R].masked_fill(map_TE[short_R] | (room_E <= 0), -torch.inf)
        best_R, expert_R = offers_RE.max(dim=1) if len(short_R) else (scores_TE.new_empty(0), short_R)
        asking_R = best_R > -torch.inf
        if not asking_R.any():
            return map_TE
        asked_TE = torch.zeros_like(map_TE)
        asked_TE[short_R[asking_R], expert_R[asking_R]] = True
        map_TE = map_TE | keep_largest(scores_TE, asked_TE, room_E.clamp_min(0))
