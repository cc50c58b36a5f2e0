"""Capacity: the hard limit on the choices that an expert takes.

Shape suffixes: T tokens, E experts, F experts and one column more, K experts of a token, N = K * T.
"""

import math

import torch
from torch import Tensor

_APART = 1.0
"""Offset that keeps the keys of unchosen experts below those of chosen ones."""


def slots_per_expert(choices: int, num_experts: int, factor: float) -> int:
    """Largest number of choices that an expert takes: `factor` times the mean load, rounded up to whole choices."""
    return math.ceil(round(factor * choices / num_experts, 6))


def slots_of_tokens(tokens: Tensor, *, top_k: int, num_experts: int, factor: float) -> Tensor:
    """:func:`slots_per_expert` where a device alone knows how many tokens there are; both are int64 []."""
    return (factor * (tokens.double() * top_k) / num_experts).round(decimals=6).ceil().long()


def keep_largest(values_TE: Tensor, map_TE: Tensor, slots_E: Tensor | int) -> Tensor:
    """Cuts every column of a routing map to its largest values; among equal ones the earlier token stays.

    A column keeps so many choices, at least 0; one number for all, or int64 [E].
    """
    order_TE = values_TE.masked_fill(~map_TE, -torch.inf).argsort(dim=0, descending=True, stable=True)
    places_TE = torch.arange(len(map_TE), device=map_TE.device)[:, None].expand_as(order_TE)
    return map_TE & (torch.empty_like(order_TE).scatter_(0, order_TE, places_TE) < slots_E)


def keep_first(map_TE: Tensor, slots: Tensor | int) -> Tensor:
    """Cuts every column of a routing map to its first `slots` tokens."""
    return map_TE & (map_TE.cumsum(dim=0) <= slots)


def cut_by_margin(
    scores_TE: Tensor, map_TE: Tensor, slots_E: Tensor | int, due: int, counted_T: Tensor | None = None
) -> Tensor:
    """Cuts overfull experts to their capacity by :func:`serve`, which finds other experts for tokens that lose one.

    Choices beyond a token's due get the slots that are left, in order of their score less that of its last due one.

    Args:
        scores_TE: score of each expert for each token.
        map_TE: bool, the choices: of each token its best ones, at least `due`.
        slots_E: choices that each expert keeps, at least 0; one number for all, or int64 [E].
        due: experts that each token is to visit.
        counted_T: bool, false for padding, which chose nothing; None if absent.

    Returns:
        bool [T, E]. No column is over its slots and no row longer than it was. Where no column of the map is over, it
        is the map. While there are as many slots as due choices, no token is without an expert.
    """
    if len(scores_TE) == 0:
        return map_TE
    best_TK = scores_TE.topk(min(due + 1, scores_TE.shape[1]), dim=1).values
    last_due_T1, next_T1 = best_TK[:, due - 1 : due], best_TK[:, -1:]
    due_TE = map_TE & (scores_TE >= last_due_T1)
    keys_TE = scores_TE - torch.where(due_TE, next_T1, last_due_T1 + _APART)
    kept_TE = serve(keys_TE, slots_E, due, counted_T)
    return kept_TE | keep_largest(keys_TE, map_TE & ~kept_TE, slots_E - kept_TE.sum(dim=0))


def cut_best(scores_TE: Tensor, slots_E: Tensor | int, due: int, counted_T: Tensor | None = None) -> Tensor:
    """:func:`cut_by_margin` of each token's `due` best experts, in fewer operations."""
    if len(scores_TE) == 0:
        return torch.zeros_like(scores_TE, dtype=torch.bool)
    best = scores_TE.topk(min(due + 1, scores_TE.shape[1]), dim=1)
    keys_TE = scores_TE - (best.values[:, due - 1 : due] + _APART)
    keys_TE.scatter_(1, best.indices[:, :due], best.values[:, :due] - best.values[:, -1:])
    return serve(keys_TE, slots_E, due, counted_T)


def serve(keys_TE: Tensor, slots_E: Tensor | int, due: int, counted_T: Tensor | None = None) -> Tensor:
    """Gives tokens their due experts, and experts no more tokens than they have slots, in two passes.

    First every expert lists as many tokens as it has slots, those of largest keys, and a token visits its due experts
    among those that list it. Then the choices that are still due take the slots that are still free, the i-th choice
    the i-th slot, first choices of tokens without an expert before all others; a token that comes by an expert that it
    visits already keeps one choice less. All shapes are known beforehand and no number is read, so that no host waits.

    Args:
        keys_TE: of a token's due choices its margin, which is the score less the best other score that the token could
            fall back to and therefore at least 0; of the other experts below 0, by how little it would cost the token
            to come. Among equals the earlier token is listed.
        slots_E: choices that each expert takes, at least 0; one number for all, or int64 [E].
        due: experts that each token is to visit.
        counted_T: bool, false for padding; None if absent.

    Returns:
        bool [T, E]: where no expert has more due choices than slots, exactly those.
    """
    tokens, experts = keys_TE.shape
    if counted_T is not None:
        keys_TE = keys_TE.masked_fill(~counted_T[:, None], -torch.inf)
    listed = _largest(keys_TE, slots_E).mT.topk(due, dim=0)
    served_KT = listed.values > -torch.inf
    # The last row is of the choices that need no other slot or find none.
    map_FT = served_KT.new_zeros([tokens, experts + 1]).mT.scatter_(0, listed.indices, served_KT)
    free_E = slots_E - map_FT[:experts].sum(dim=1)
    placed_KT = served_KT if counted_T is None else served_KT | ~counted_T
    number_N = (~placed_KT).flatten().cumsum(dim=0)
    expert_KT = torch.searchsorted(free_E.cumsum(dim=0), number_N).view(due, tokens).masked_fill_(placed_KT, experts)
    return map_FT.scatter_(0, expert_KT, True)[:experts].mT.contiguous()


def map_of(indices_TK: Tensor, num_experts: int) -> Tensor:
    """Turns lists of experts, int64, into a routing map, bool [T, E]."""
    return indices_TK.new_zeros([indices_TK.shape[0], num_experts], dtype=torch.bool).scatter_(1, indices_TK, True)


def _largest(keys_TE: Tensor, slots_E: Tensor | int) -> Tensor:
    """Keeps the `slots_E` largest of each column, the earlier among equals; sets the others to minus infinity."""
    ordered = keys_TE.sort(dim=0, descending=True, stable=True)
    if isinstance(slots_E, int):
        return keys_TE.scatter(0, ordered.indices[slots_E:], -torch.inf)
    places_T1 = torch.arange(len(keys_TE), device=keys_TE.device)[:, None]
    return keys_TE.scatter(0, ordered.indices, ordered.values.masked_fill(places_T1 >= slots_E, -torch.inf))
