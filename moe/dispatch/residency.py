"""Where the tokens of an expert-parallel group are, and the collectives that follow them.

In context-coherent dispatch a token stays on the rank of its expert. A token is known by a number: home rank * tokens
of a home rank + index there. Every rank keeps its rows in ascending order of that number, whatever order they came in,
so that results do not depend on the order of messages.

Shape suffixes: T rows on this rank, R rows that arrive, C rows that leave, D width of a row, K gate values of a row,
A all tokens of the group, H tokens of this home rank, N ranks of the group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from moe.dispatch.exchange import MoveRows, Route, gather_counts, gather_equal, packed, unpacked
from moe.dispatch.row_copies import counts_of

# torch 2.13 deprecates reduce_scatter_tensor in favour of a name that older releases lack.
_reduce_scatter_single = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass(frozen=True, eq=False)
class Residency:
    """Tokens that a rank holds at some depth of a network.

    Attributes:
        ids: numbers of the tokens on this rank, int64 [T], ascending.
        rows: rows on each rank of the group, [N]; every rank knows them all.
        per_rank: numbers reserved for one home rank; some are not in use if the rank began with fewer tokens.
        group: the ranks that tokens move among; None: they never move.
        whole: whether this rank holds all tokens of its own and no others.
    """

    ids: Tensor
    rows: tuple[int, ...]
    per_rank: int
    group: dist.ProcessGroup | None
    whole: bool

    @classmethod
    def home(
        cls,
        rows: int,
        group: dist.ProcessGroup | None,
        device: torch.device,
        *,
        rows_N: Sequence[int] | None = None,
        per_rank: int | None = None,
    ) -> "Residency":
        """Returns the residency with every token on its home rank: `rows` on each rank, or `rows_N` by rank.

        `per_rank` numbers are reserved for each rank, by default `rows`. Without a group tokens never move.
        """
        per_rank = rows if per_rank is None else per_rank
        rank, size = (0, 1) if group is None else (dist.get_rank(group), group.size())
        ids_T = torch.arange(rank * per_rank, rank * per_rank + rows, device=device)
        return cls(ids_T, tuple(rows_N or [rows] * size), per_rank, group, whole=True)

    @property
    def rank(self) -> int:
        """This rank's place in the group."""
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def num_ranks(self) -> int:
        """Ranks of the group."""
        return len(self.rows)

    def moved(self, ids_T: Tensor, rows_N: Sequence[int]) -> "Residency":
        """Returns the residency after a move: `ids_T` are the tokens now here, ascending, `rows_N` the rows by rank."""
        return Residency(ids_T, tuple(rows_N), self.per_rank, self.group, whole=self.num_ranks == 1)


def return_home(rows_TD: Tensor, residency: Residency) -> Tensor:
    """Sends every row to its home rank: one all-gather of counts, one all-to-all, one more backward.

    Returns rows [H, D] in the order in which they began.
    """
    if residency.group is None or residency.whole:
        return rows_TD
    home_T = residency.ids // residency.per_rank
    counts_NN = gather_counts(counts_of(home_T, residency.num_ranks), residency.group).cpu()
    route = Route(residency.group, counts_NN[residency.rank].tolist(), counts_NN[:, residency.rank].tolist())
    order_C = torch.arange(len(rows_TD), device=rows_TD.device)
    no_gates_TK = rows_TD.new_empty(len(rows_TD), 0)
    rows_RD, _, ids_RL = MoveRows.apply(rows_TD, no_gates_TK, residency.ids[:, None], order_C, route)
    return rows_RD[ids_RL[:, 0].argsort()]


def gather_rows(rows_TD: Tensor, residency: Residency) -> Tensor:
    """Gathers the rows of all tokens: one all-gather, of as many rows as the fullest rank has; backward one
    reduce-scatter of the same rows. The token's number travels behind each row and has no gradient.

    Returns rows [A, D] in order of the tokens' numbers; a row whose number is not in use is arbitrary.
    """
    if residency.group is None or residency.num_ranks == 1:
        return rows_TD
    most = max(residency.rows)
    rows_RD, ids_R = _GatherRows.apply(rows_TD, residency.ids, most, residency.group)
    source = ids_R.new_zeros(1 + residency.num_ranks * residency.per_rank)  # the first one takes what is no token
    source.scatter_(0, ids_R + 1, torch.arange(len(ids_R), device=ids_R.device))
    return rows_RD[source[1:]]


def share_values(values_H: Tensor, residency: Residency) -> Tensor:
    """Sends a value of each token from its home rank to where it is, [T]: one all-gather of every home rank's values.

    Every home rank has the same number of values. No gradient flows.
    """
    if residency.group is None or residency.whole:
        return values_H
    return gather_equal(values_H, residency.group)[residency.ids]


def collect_values(values_T: Tensor, residency: Residency) -> Tensor:
    """Sends a value of each token home, [H]: one reduce-scatter; backward one all-gather. All homes have equal H."""
    if residency.group is None or residency.whole:
        return values_T
    values_A = values_T.new_zeros(residency.num_ranks * residency.per_rank)
    return _CollectValues.apply(values_A.index_copy(0, residency.ids, values_T), residency.group)


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows_TD: Tensor, ids_T: Tensor, most: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
        ctx.group, ctx.num_rows = group, len(rows_TD)
        no_gates = rows_TD.new_empty(len(rows_TD), 0)
        message = packed(rows_TD, no_gates, ids_T[:, None] + 1)  # padding has number 0
        padded = message.new_zeros(most, message.shape[1])
        padded[: len(message)] = message
        rows_RD, _, ids_R1 = unpacked(gather_equal(padded, group), rows_TD.shape[1], 0, rows_TD.dtype, 1)
        ids_R = ids_R1[:, 0] - 1
        ctx.mark_non_differentiable(ids_R)
        return rows_RD, ids_R

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows_RD = gradients[0].contiguous()
        own = rows_RD.new_empty(len(rows_RD) // ctx.group.size(), rows_RD.shape[1])
        _reduce_scatter_single(own, rows_RD, group=ctx.group)
        return own[: ctx.num_rows], None, None, None


class _CollectValues(Function):
    @staticmethod
    def forward(ctx: Any, values_A: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        values_H = values_A.new_empty(len(values_A) // group.size())
        _reduce_scatter_single(values_H, values_A, group=group)
        return values_H

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gather_equal(gradients[0], ctx.group), None
