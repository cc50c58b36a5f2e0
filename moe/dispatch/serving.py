"""From the experts that tokens choose to the slots that serve them, and the weights that replicas borrow for a pass.

Shape suffixes: T tokens of this rank, E experts, P slots of the expert-parallel group, N ranks of the group, C experts
at home on this rank, S slots of this rank, W elements of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moe.dispatch.exchange import exchange_rows, gather_counts
from moe.replica import Slots, deal, even_quotas, least_loaded_quotas


@dataclass(frozen=True, slots=True)
class Counts:
    """Choices that each rank of the group sends to each slot, int64 [N, P], where the tokens are and on the host."""

    on_device: Tensor
    on_host: Tensor


class Serving:
    """Slots of a layer and the choice among replicas, which a dispatcher requests in every pass.

    Without replicas the choices of an expert go to its only slot and nothing is computed.

    Attributes:
        slots: the slots; they may be replaced between passes.
        group: the expert-parallel group.
        most_choices: experts that a token can visit.
        capacity: choices that an expert takes at most of so many tokens of a rank in this pass; None: no limit.
        served: whether a slot served a token in the last pass, bool [T, P]; None without replicas.
    """

    def __init__(
        self,
        slots: Slots,
        group: dist.ProcessGroup,
        rule: str,
        layer: int,
        *,
        most_choices: int = 0,
        capacity: Callable[[int], int | None] = lambda _tokens: None,
    ) -> None:
        """Begins with a placement; `rule`, even or least_loaded, splits the choices of an expert over its replicas."""
        self.slots, self.group = slots, group
        self.most_choices, self.capacity = most_choices, capacity
        self._rule, self._layer = rule, layer
        self._columns_P: Tensor | None = None
        self._slots_E: Tensor | None = None
        self.served: Tensor | None = None

    def place(self, slots: Slots) -> None:
        """Replaces the slots."""
        self.slots, self.served = slots, None
        self._columns_P = self._slots_E = None

    def columns(self, device: torch.device) -> Tensor:
        """Logical expert of each slot, int64 [P]."""
        if self._columns_P is None or self._columns_P.device != device:
            self._columns_P = torch.as_tensor(self.slots.experts.reshape(-1), device=device)
        return self._columns_P

    def slot_of_experts(self, device: torch.device) -> Tensor:
        """Slot of each logical expert where none has replicas, int64 [E]."""
        if self._slots_E is None or self._slots_E.device != device:
            self._slots_E = torch.as_tensor(self.slots.experts.reshape(-1).argsort(), device=device)
        return self._slots_E

    def own(self, map_TE: Tensor) -> Tensor:
        """Chooses a slot for every choice of this rank's tokens: bool [T, P].

        With replicas the counts of this rank go to the host; if the rule is least_loaded, those of all ranks do, after
        an all-gather.
        """
        if self.slots.has_replicas and self._rule == "least_loaded":
            return self.agreed(map_TE)[0]
        map_TP = self._of_slots(map_TE)
        if self.slots.has_replicas:
            counts_1E = map_TE.sum(dim=0, keepdim=True).cpu().numpy()
            own = even_quotas(counts_1E, self.slots.holders, self._layer, first_source=self.group.rank())
            deal(map_TP, own[0], self.slots)
            self.served = map_TP
        return map_TP

    def agreed(self, map_TE: Tensor) -> tuple[Tensor, Counts]:
        """Chooses a slot for every choice, bool [T, P], and counts all that is sent: one all-gather; the host waits."""
        map_TP = self._of_slots(map_TE)
        if not self.slots.has_replicas:
            counts_NP = gather_counts(map_TP.sum(dim=0, dtype=torch.long), self.group)
            return map_TP, Counts(counts_NP, counts_NP.cpu())
        counts_NE = gather_counts(map_TE.sum(dim=0, dtype=torch.long), self.group).cpu().numpy()
        quotas_NEG = self._quotas(counts_NE)
        deal(map_TP, quotas_NEG[self.group.rank()], self.slots)
        self.served = map_TP
        counts_NP = torch.from_numpy(self.slots.of_quotas(quotas_NEG))
        return map_TP, Counts(counts_NP.to(map_TE.device), counts_NP)

    def _of_slots(self, map_TE: Tensor) -> Tensor:
        """Turns a routing map by expert into one by slot, [T, P], stored column by column."""
        return map_TE.T.index_select(0, self.columns(map_TE.device)).T

    def _quotas(self, counts_NE: NDArray[np.int64]) -> NDArray[np.int64]:
        quotas = least_loaded_quotas if self._rule == "least_loaded" else even_quotas
        return quotas(counts_NE, self.slots.holders, self._layer)


@dataclass(frozen=True, slots=True)
class Loans:
    """Experts that this rank lends and borrows.

    Attributes:
        group: the expert-parallel group.
        lent: place among this rank's homes of each expert that leaves, in order of its borrower.
        lent_to: how many leave for each rank, [N].
        borrowed: slot of each expert that arrives, in order of its home.
        borrowed_from: how many arrive from each rank, [N].
    """

    group: dist.ProcessGroup
    lent: list[int]
    lent_to: list[int]
    borrowed: list[int]
    borrowed_from: list[int]

    @classmethod
    def of(cls, slots: Slots, group: dist.ProcessGroup) -> Self:
        """Finds the experts that this rank lends and borrows, from the slots of a layer."""
        rank = group.rank()
        homes = slots.homes[rank].tolist()
        lent = [
            [homes.index(expert) for expert in of_rank if slots.home_ranks[expert] == rank]
            for of_rank in slots.replicas.tolist()
        ]
        owners = slots.home_ranks[slots.replicas[rank]]
        order = np.argsort(owners, kind="stable")
        return cls(
            group=group,
            lent=[place for places in lent for place in places],
            lent_to=[len(places) for places in lent],
            borrowed=(order + slots.homes_per_rank).tolist(),
            borrowed_from=np.bincount(owners, minlength=slots.num_ranks).tolist(),
        )

    def weights(self, first_CFD: Tensor, second_CDF: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of all slots of this rank: one all-to-all, and one of their gradients in the backward pass.

        First and second matrix of each slot, [S, F, D] and [S, D, F]; those of experts at home here come first. The
        gradient of a home's matrix is the sum over all its holders in the order of ranks; which of them is the home
        makes no difference.
        """
        return _Borrow.apply(self, first_CFD, second_CDF)


class _Borrow(Function):
    @staticmethod
    def forward(ctx: Any, loans: Loans, first_CFD: Tensor, second_CDF: Tensor) -> tuple[Tensor, Tensor]:
        ctx.loans = loans
        message = _message(loans.lent, first_CFD, second_CDF)
        arrived_W = exchange_rows(message, loans.group, loans.borrowed_from, loans.lent_to)
        slots_SFD, slots_SDF = (
            torch.cat([stack, stack.new_empty(len(loans.borrowed), *stack.shape[1:])])
            for stack in (first_CFD, second_CDF)
        )
        for row_W, slot in zip(arrived_W, loans.borrowed, strict=True):
            _fill(slots_SFD[slot], slots_SDF[slot], row_W)
        return slots_SFD, slots_SDF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loans = ctx.loans
        message = _message(loans.borrowed, *gradients)
        arrived_W = exchange_rows(message, loans.group, loans.lent_to, loans.borrowed_from)
        lenders = np.repeat(np.arange(len(loans.lent_to)), loans.lent_to).tolist()
        homes = len(gradients[0]) - len(loans.borrowed)
        first_CFD, second_CDF = (stack[:homes].clone() for stack in gradients)
        for place in sorted(set(loans.lent)):
            own_W = torch.cat([first_CFD[place].reshape(-1), second_CDF[place].reshape(-1)])
            parts = {loans.group.rank(): own_W} | {
                rank: row_W for row_W, of, rank in zip(arrived_W, loans.lent, lenders, strict=True) if of == place
            }
            _fill(first_CFD[place], second_CDF[place], _sum([parts[rank] for rank in sorted(parts)]))
        return None, first_CFD, second_CDF


def _message(places: list[int], first: Tensor, second: Tensor) -> Tensor:
    """Packs both matrices of each expert in `places` into one row of W elements."""
    size = first[0].numel()
    rows_W = first.new_empty(len(places), size + second[0].numel())
    for row_W, place in zip(rows_W, places, strict=True):
        row_W[:size].view(first.shape[1:]).copy_(first[place])
        row_W[size:].view(second.shape[1:]).copy_(second[place])
    return rows_W


def _fill(first: Tensor, second: Tensor, row_W: Tensor) -> None:
    """Copies a row of a message into both matrices of an expert."""
    first.copy_(row_W[: first.numel()].view_as(first))
    second.copy_(row_W[first.numel() :].view_as(second))


def _sum(parts: list[Tensor]) -> Tensor:
    """Returns the sum of the parts in their order; in float32 where they are narrower, rounded once."""
    total = parts[0].to(torch.promote_types(parts[0].dtype, torch.float32), copy=True)
    for part in parts[1:]:
        total += part
    return total.to(parts[0].dtype)
