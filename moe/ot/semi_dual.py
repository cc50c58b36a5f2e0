"""Sparsity-constrained transport over the potentials of one side.

Shape suffixes: N rows, M columns, P problems (all leading dimensions in one).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from moe.ot.ascent import ascend
from moe.ot.conjugate import RowSpread, project_rows
from moe.ot.problem import Plan, check_balance, check_masses, check_sparsity, relative_error, scatter_sum

Reduce = Callable[[Tensor], Tensor]


def semi_dual(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    k: int,
    gamma: float,
    start: Tensor | None = None,
    tolerance: float = 1e-2,
    max_iterations: int = 1000,
    max_evaluations: int = 1000,
    reduce: Reduce | None = None,
    columns: Tensor | None = None,
    keep_least_error: bool = False,
) -> Plan:
    """Maximise be.b - sum_i max_t (<t, be - c_i> - gamma/2 |t|^2), t on the a_i-simplex with at most k entries.

    Rows are exact by construction. The gradient is b - load. The optimal be are constants to autograd: the gradient
    of `value` is exact by the envelope theorem, that of `values` is the one at fixed potentials.

    Args:
        cost: [..., N, M].
        a: mass of each row, [..., N].
        b: mass of each column, [..., M].
        k: columns of each row at most.
        gamma: strength of the quadratic term, in units of cost over mass.
        start: column potentials to begin with, [..., M].
        tolerance: largest |load - b| over the mean of b to stop at.
        max_iterations: accepted steps at most.
        max_evaluations: evaluations at most.
        reduce: sums [conjugates, load], [P, 1 + M], over ranks.
        columns: the columns that each row looks at during the ascent, [P, N, W], filled up with -1; all if None.
            The plan that ends it looks at all.
        keep_least_error: where the tolerance is not reached, end with the prices of least error, not with the last.

    Returns:
        A plan by rows.

    Raises:
        ValueError: shapes that do not fit, k or gamma out of range, or masses of unequal sums.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10.
    """
    a, b = check_masses(cost, a, b)
    check_sparsity(k, gamma)
    leading, (num_rows, num_columns) = cost.shape[:-2], cost.shape[-2:]
    cost, a, b = cost.reshape(-1, num_rows, num_columns), a.reshape(-1, num_rows), b.reshape(-1, num_columns)
    fixed_a, fixed_b = a.detach(), b.detach()
    spread = RowSpread(cost.detach(), fixed_a, k=k, gamma=gamma, columns_PNW=columns)

    def evaluate(be: Tensor) -> tuple[Tensor, Tensor]:
        load, conjugate = spread(be)
        sums = torch.cat([conjugate[:, None], load], dim=-1)
        if reduce is not None:
            sums = reduce(sums)
        return (be * fixed_b).sum(-1) - sums[:, 0], fixed_b - sums[:, 1:]

    def error(gradient: Tensor) -> Tensor:
        return relative_error(gradient, fixed_b)

    def optimal(gradient: Tensor) -> Tensor:
        return error(gradient) <= tolerance

    if start is None:
        start = torch.zeros_like(fixed_b)
    else:
        start = start.detach().to(b).expand(*leading, num_columns).reshape(b.shape)
    # Rows per column: that many pieces of curvature 1/gamma add up. Ranks know only b, which is it for a mass of 1.
    crowd = fixed_a.sum(-1) / fixed_a.amax(-1) / num_columns if reduce is None else fixed_b.mean(-1)
    with torch.no_grad():
        end = ascend(
            evaluate,
            start,
            scale=gamma / crowd.clamp_min(1),
            optimal=optimal,
            max_iterations=max_iterations,
            max_evaluations=max_evaluations,
            error=error if keep_least_error else None,
        )
    rows = project_rows(end.point[:, None] - cost, a, k=k, gamma=gamma)
    value, gradient = end.value, end.gradient
    if reduce is None:
        value = (end.point * b).sum(-1) - rows.conjugate.sum(-1)
        gradient = fixed_b - scatter_sum(rows.values.detach(), rows.indices, num_columns)
    check_balance(fixed_b.sum(-1) - gradient.sum(-1), fixed_b.sum(-1))
    return Plan(
        values=rows.values.reshape(*leading, num_rows, -1),
        potentials=(-rows.threshold.reshape(*leading, num_rows), end.point.reshape(*leading, num_columns)),
        value=value.reshape(leading),
        marginal_error=error(gradient).reshape(leading),
        iterations=int(end.iterations.max()),
        evaluations=end.evaluations,
        converged=optimal(gradient).reshape(leading),
        shape=(num_rows, num_columns),
        indices=rows.indices.reshape(*leading, num_rows, -1),
        stages=("potentials",),
    )
