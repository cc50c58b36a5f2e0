"""Weights of replicas: borrowed from the homes of their experts for one pass, their gradients brought back.

Shape suffixes: C experts at home on this rank, S slots of this rank, W elements of an expert, N ranks of the group.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moe.dispatch.row_messages import exchange_rows
from moe.replica.slots import Slots


@dataclass(frozen=True, slots=True)
class Loans:
    """The experts that this rank lends and borrows.

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
        """Reads them off the slots of a layer.

        Args:
            slots: the slots.
            group: the expert-parallel group.
        """
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

        Args:
            first_CFD: first matrix of each expert at home here.
            second_CDF: second matrix of each.

        Returns:
            First and second matrix of each slot, [S, F, D] and [S, D, F]; the homes' own come first. The gradient of a
            home's matrix is the sum over all its holders in the order of ranks, whichever of them is the home.
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
    """One row of W elements for each of some experts of two stacks."""
    size = first[0].numel()
    rows_W = first.new_empty(len(places), size + second[0].numel())
    for row_W, place in zip(rows_W, places, strict=True):
        row_W[:size].view(first.shape[1:]).copy_(first[place])
        row_W[size:].view(second.shape[1:]).copy_(second[place])
    return rows_W


def _fill(first: Tensor, second: Tensor, row_W: Tensor) -> None:
    """Writes an expert's matrices out of a row of a message."""
    first.copy_(row_W[: first.numel()].view_as(first))
    second.copy_(row_W[first.numel() :].view_as(second))


def _sum(parts: list[Tensor]) -> Tensor:
    """Sums in the order given; in float32 where the parts are narrower, rounded once."""
    total = parts[0].to(torch.promote_types(parts[0].dtype, torch.float32), copy=True)
    for part in parts[1:]:
        total += part
    return total.to(parts[0].dtype)
