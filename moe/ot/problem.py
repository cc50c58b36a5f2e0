"""Inputs and outputs of every solver: masses and costs in, a plan with its potentials and its residual out.

Shape suffixes: N rows, M columns, P problems (all leading dimensions in one).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Axis = Literal["rows", "columns"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A transport plan, the potentials that prove how good it is, and how far it is from its marginals.

    Attributes:
        values: mass per entry. Dense [..., N, M] where indices is None; else the entries of each line,
            [..., N, k] for axis "rows" and [..., M, k] for axis "columns", padded with zeros.
        potentials: of the rows [..., N] and of the columns [..., M].
        value: dual value, a lower bound of the optimum, [...].
        marginal_error: largest violation of a prescribed row or column sum, over that side's mean mass, [...].
        iterations: accepted steps of the slowest problem.
        evaluations: evaluations of the objective, common to all problems.
        converged: whether marginal_error came under the tolerance, bool [...].
        shape: (N, M).
        indices: int64, columns of each row (axis "rows") or rows of each column (axis "columns").
        axis: the lines that values and indices list.
        stages: the stages that ran.
    """

    values: Tensor
    potentials: tuple[Tensor, Tensor]
    value: Tensor
    marginal_error: Tensor
    iterations: int
    evaluations: int
    converged: Tensor
    shape: tuple[int, int]
    indices: Tensor | None = None
    axis: Axis = "rows"
    stages: tuple[str, ...] = ()

    def dense(self) -> Tensor:
        """The plan as a matrix, [..., N, M]."""
        if self.indices is None:
            return self.values
        lines, entries = self.shape if self.axis == "rows" else self.shape[::-1]
        matrix = self.values.new_zeros([*self.values.shape[:-2], lines, entries])
        matrix = matrix.scatter_add(-1, self.indices, self.values)
        return matrix if self.axis == "rows" else matrix.mT

    def row_sums(self) -> Tensor:
        """Mass that leaves each row, [..., N]."""
        return self._sums("rows", self.values)

    def column_sums(self) -> Tensor:
        """Mass that enters each column, [..., M]."""
        return self._sums("columns", self.values)

    def row_counts(self) -> Tensor:
        """Columns that each row is spread over, int64 [..., N]; 0 is a dropped token."""
        return self._sums("rows", (self.values > 0).long())

    def column_counts(self) -> Tensor:
        """Rows that each column draws from, int64 [..., M]."""
        return self._sums("columns", (self.values > 0).long())

    def barycentric_projection(self, points: Tensor) -> Tensor:
        """Mean place [..., N, D] of each row's mass on the columns' points [..., M, D]; zeros without mass."""
        plan = self.dense()
        return plan @ points / plan.sum(-1, keepdim=True).clamp_min(torch.finfo(plan.dtype).tiny)

    def transposed(self) -> "Plan":
        """The same plan with rows and columns exchanged."""
        dense = self.indices is None
        return replace(
            self,
            values=self.values.mT if dense else self.values,
            potentials=self.potentials[::-1],
            shape=self.shape[::-1],
            axis="rows" if dense or self.axis == "columns" else "columns",
        )

    def _sums(self, side: Axis, values: Tensor) -> Tensor:
        if self.indices is None:
            return values.sum(-1 if side == "rows" else -2)
        if side == self.axis:
            return values.sum(-1)
        length = self.shape[0] if side == "rows" else self.shape[1]
        return scatter_sum(values, self.indices, length)


def scatter_sum(values: Tensor, indices: Tensor, length: int) -> Tensor:
    """Adds values [..., lines, k] up by their indices: [..., length]."""
    sums = values.new_zeros([*values.shape[:-2], length])
    return sums.scatter_add(-1, indices.flatten(-2), values.flatten(-2))


def check_masses(cost: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Masses of the rows [..., N] and columns [..., M] of a cost, expanded to its leading dimensions and in its type.

    Refuses negative masses, shapes that do not fit, and what is no matrix of floating point.
    """
    if cost.ndim < 2 or not cost.is_floating_point():
        raise ValueError(f"cost: no matrix of floats ({cost.dtype}, {list(cost.shape)}); give [..., rows, columns]")
    expanded = []
    for name, mass, length in (("a", a, cost.shape[-2]), ("b", b, cost.shape[-1])):
        try:
            expanded.append(mass.to(cost.dtype).expand([*cost.shape[:-2], length]))
        except RuntimeError:
            raise ValueError(
                f"{name}: shape {list(mass.shape)} does not fit a cost of {list(cost.shape)}; "
                f"give {[*cost.shape[:-2], length]}"
            ) from None
    return expanded[0], expanded[1]


def check_balance(rows: Tensor, columns: Tensor) -> None:
    """Refuse rows and columns whose mass differs by more than a thousandth, or is not finite."""
    share = columns / rows
    if not ((share - 1).abs() <= 1e-3).all():
        wrong = float(share.flatten()[(share - 1).abs().argmax()])
        if wrong != wrong:
            raise ValueError("cost, a, b: not finite, or no mass at all; look for NaN in the logits")
        raise ValueError(f"b: sums to {wrong:.6g} times the mass of the rows; scale it to their sum")


def check_sparsity(k: int, gamma: float) -> None:
    """Refuse a cardinality below 1 or a strength that is not positive."""
    if k < 1:
        raise ValueError(f"k: no entries ({k}); give at least 1")
    if not gamma > 0:
        raise ValueError(f"gamma: not positive ({gamma}); give 0.1 to 1 times the spread of the costs")


def relative_error(violation: Tensor, mass: Tensor) -> Tensor:
    """Largest violation of a side's masses [..., L] over their mean, [...]."""
    if not violation.shape[-1]:
        return violation.new_zeros(violation.shape[:-1])
    return violation.abs().amax(-1) / mass.mean(-1).clamp_min(torch.finfo(mass.dtype).tiny)
