"""The hard limit on what an expert takes.

Shape suffixes: T tokens, E experts.
"""

import math

import torch
from torch import Tensor


def slots_per_expert(choices: int, num_experts: int, factor: float) -> int:
    """Choices that an expert takes at most.

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
        values_TE: what a choice is worth to its expert.
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
    """Cuts full experts where it costs their tokens least, then serves who went short from the experts with room.

    A choice is worth its margin: how much its score exceeds the best score that its token would fall back to. Choices
    beyond a token's due have a negative margin and go first.

    Args:
        scores_TE: what an expert is worth to a token.
        map_TE: bool, the choices, at least `due` of each token and its best ones.
        slots_E: choices that each expert keeps, int64.
        due: experts that each token is to visit.

    Returns:
        bool [T, E]. No column is over its slots; with due 1, no token is without an expert while any slot is free.
    """
    if len(scores_TE) == 0 or bool((map_TE.sum(dim=0) <= slots_E).all()):
        return map_TE
    ranked_TK = scores_TE.topk(min(due + 1, scores_TE.shape[1]), dim=1).values
    last_due_T1, next_T1 = ranked_TK[:, due - 1 : due], ranked_TK[:, -1:]
    margins_TE = scores_TE - torch.where(scores_TE >= last_due_T1, next_T1, last_due_T1)
    return _serve(scores_TE, keep_largest(margins_TE, map_TE, slots_E), slots_E, due)


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
