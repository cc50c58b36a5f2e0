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

    def weights(self, first: list[Tensor], second: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights of all slots of this rank: one all-to-all, and one of their gradients in the backward pass.

        Args:
            first: first matrix of each expert at home here, C of them.
            second: second matrix of each.

        Returns:
            First and second matrix of each slot, S of each; the homes' own come first. The gradient of a home's matrix
            is the sum over all its holders in the order of ranks, whichever of them is the home.
        """
        matrices = _Borrow.apply(self, *first, *second)
        return list(matrices[: len(matrices) // 2]), list(matrices[len(matrices) // 2 :])


class _Borrow(Function):
    @staticmethod
    def forward(ctx: Any, loans: Loans, *matrices: Tensor) -> tuple[Tensor, ...]:
        ctx.loans, ctx.shapes = loans, (matrices[0].shape, matrices[-1].shape)
        homes = len(matrices) // 2
        first, second = list(matrices[:homes]), list(matrices[homes:])
        rows_W = _rows([(first[place], second[place]) for place in loans.lent], matrices)
        arrived_W = exchange_rows(rows_W, loans.group, loans.borrowed_from, loans.lent_to)
        borrowed = dict(zip(loans.borrowed, arrived_W, strict=True))
        for slot in sorted(borrowed):
            for of_slots, part in zip((first, second), _matrices(borrowed[slot], ctx.shapes), strict=True):
                of_slots.append(part)
        return *first, *second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        loans, shapes = ctx.loans, ctx.shapes
        slots, homes = len(gradients) // 2, len(gradients) // 2 - len(loans.borrowed)
        first, second = gradients[:slots], gradients[slots:]
        rows_W = _rows([(first[slot], second[slot]) for slot in loans.borrowed], gradients)
        arrived_W = exchange_rows(rows_W, loans.group, loans.lent_to, loans.borrowed_from)
        lenders = np.repeat(np.arange(len(loans.lent_to)), loans.lent_to)
        parts: list[list[tuple[int, tuple[Tensor, ...]]]] = [
            [(loans.group.rank(), (first[home], second[home]))] for home in range(homes)
        ]
        for row_W, place, rank in zip(arrived_W, loans.lent, lenders.tolist(), strict=True):
            parts[place].append((rank, _matrices(row_W, shapes)))
        sums = [_sum([part for _, part in sorted(of_home, key=lambda one: one[0])]) for of_home in parts]
        return None, *(of_home[0] for of_home in sums), *(of_home[1] for of_home in sums)


def _rows(experts: list[tuple[Tensor, Tensor]], like: tuple[Tensor, ...]) -> Tensor:
    """One row of W elements for each expert."""
    width = like[0].numel() + like[-1].numel()
    rows_W = like[0].new_empty(len(experts), width)
    for row_W, (first, second) in zip(rows_W, experts, strict=True):
        torch.cat([first.reshape(-1), second.reshape(-1)], out=row_W)
    return rows_W


def _matrices(row_W: Tensor, shapes: tuple[torch.Size, torch.Size]) -> tuple[Tensor, Tensor]:
    first, second = row_W.split([shape.numel() for shape in shapes])
    return first.view(shapes[0]), second.view(shapes[1])


def _sum(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Sums in the order given; in float32 where the parts are narrower, rounded once."""
    if len(parts) == 1:
        return parts[0]
    wide = torch.promote_types(parts[0][0].dtype, torch.float32)
    sums = []
    for matrices in zip(*parts, strict=True):
        total = matrices[0].to(wide, copy=True)
        for matrix in matrices[1:]:
            total += matrix
        sums.append(total.to(matrices[0].dtype))
    return tuple(sums)
