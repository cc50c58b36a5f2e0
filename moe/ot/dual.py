"""Sparsity-constrained transport over the potentials of both sides.

Shape suffixes: N rows, M columns, P problems (all leading dimensions in one).
"""

import torch
from torch import Tensor

from moe.ot.ascent import ascend
from moe.ot.problem import Plan, check_balance, check_masses, check_sparsity, relative_error, scatter_sum


def dual(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    k: int,
    gamma: float,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-2,
    max_evaluations: int = 100,
) -> Plan:
    """Maximise al.a + be.b - 1/(2 gamma) sum over rows of the k largest [al_i + be_j - c_ij]_+^2.

    Args:
        cost: [..., N, M].
        a: mass of each row, [..., N].
        b: mass of each column, [..., M].
        k: entries of each row at most.
        gamma: strength of the quadratic term, in units of cost over mass.
        start: row and column potentials to begin with.
        tolerance: largest violation of a row or column sum, over the side's mean mass, to stop at.
        max_evaluations: evaluations at most.

    Returns:
        A plan by rows; potentials are constants to autograd as in `semi_dual`.

    Raises:
        ValueError: shapes that do not fit, k or gamma out of range, or masses of unequal sums.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 9.
    """
    a, b = check_masses(cost, a, b)
    check_sparsity(k, gamma)
    leading, (num_rows, num_columns) = cost.shape[:-2], cost.shape[-2:]
    cost, a, b = cost.reshape(-1, num_rows, num_columns), a.reshape(-1, num_rows), b.reshape(-1, num_columns)
    check_balance(a.sum(-1), b.sum(-1))

    def entries(point: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        al, be = point.split([num_rows, num_columns], dim=-1)
        best, indices = (al[..., None] + be[:, None] - cost).topk(min(k, num_columns), dim=-1)
        return best.clamp_min(0) / gamma, indices

    def objective(point: Tensor, values: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (point * torch.cat([a, b], dim=-1)).sum(-1) - 0.5 * gamma * values.square().sum((-2, -1))

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = entries(point, cost)
        gradient = torch.cat([a - values.sum(-1), b - scatter_sum(values, indices, num_columns)], dim=-1)
        return objective(point, values, a, b), gradient

    def error(gradient: Tensor) -> Tensor:
        rows, columns = gradient.split([num_rows, num_columns], dim=-1)
        return torch.maximum(relative_error(rows, a), relative_error(columns, b))

    if start is None:
        # Each row begins where its best entry alone carries its mass.
        first = torch.cat([cost.amin(-1) + gamma * a, torch.zeros_like(b)], dim=-1).detach()
    else:
        first = torch.cat([side.detach().reshape(len(cost), -1) for side in start], dim=-1).to(cost)
    with torch.no_grad():
        end = ascend(
            evaluate,
            first,
            scale=torch.full_like(a[:, 0], gamma),
            optimal=lambda gradient: error(gradient) <= tolerance,
            error=error,
            max_iterations=max_evaluations,
            max_evaluations=max_evaluations,
        )
    values, indices = entries(end.point, cost)
    al, be = end.point.split([num_rows, num_columns], dim=-1)
    return Plan(
        values=values.reshape(*leading, num_rows, -1),
        potentials=(al.reshape(*leading, num_rows), be.reshape(*leading, num_columns)),
        value=objective(end.point, values, a, b).reshape(leading),
        marginal_error=error(end.gradient).reshape(leading),
        iterations=int(end.iterations.max()),
        evaluations=end.evaluations,
        converged=end.converged.reshape(leading),
        shape=(num_rows, num_columns),
        indices=indices.reshape(*leading, num_rows, -1),
        stages=("dual",),
    )
