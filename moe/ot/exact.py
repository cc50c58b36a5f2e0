"""Exact transport by the network simplex of POT, on the CPU in float64; and the dummy row and column, which transport a
part of the mass, obey capacities, and drop mass at a price.

Shape suffixes: N rows, M columns.
"""

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moe.ot.problem import Plan, check_balance, check_masses, relative_error

_MAX_PIVOTS = 10_000_000


def exact(cost: Tensor, a: Tensor, b: Tensor) -> Plan:
    """Minimise <T, C> over plans with row sums a and column sums b.

    The plan is a constant to autograd; `value` has its gradient: the plan in the cost, the potentials in a and b.

    Args:
        cost: [..., N, M]; infinity forbids a pair.
        a: mass of each row, [..., N].
        b: mass of each column, of the same sum, [..., M].

    Returns:
        A dense plan on the device of the cost.

    Raises:
        ValueError: shapes or sums that do not fit, or no plan that avoids the forbidden pairs.

    Source: Bonneel et al., "Displacement interpolation using Lagrangian mass transport", 2011, section 4.
    """
    a, b = check_masses(cost, a, b)
    check_balance(a.sum(-1), b.sum(-1))
    leading, (num_rows, num_columns) = cost.shape[:-2], cost.shape[-2:]
    problems = zip(
        cost.detach().reshape(-1, num_rows, num_columns).double().cpu().numpy(),
        a.detach().reshape(-1, num_rows).double().cpu().numpy(),
        b.detach().reshape(-1, num_columns).double().cpu().numpy(),
        strict=True,
    )
    solved = [_solve(*problem) for problem in problems]
    plan, f, g = (
        torch.as_tensor(np.stack([one[part] for one in solved]), dtype=cost.dtype, device=cost.device)
        for part in range(3)
    )
    plan = plan.reshape(*leading, num_rows, num_columns)
    f, g = f.reshape(*leading, num_rows), g.reshape(*leading, num_columns)
    # Adds nothing to the value; the potentials are its gradient in the masses.
    by_mass = (f * (a - a.detach())).sum(-1) + (g * (b - b.detach())).sum(-1)
    error = torch.maximum(
        relative_error(plan.sum(-1) - a.detach(), a.detach()), relative_error(plan.sum(-2) - b.detach(), b.detach())
    )
    return Plan(
        values=plan,
        potentials=(f, g),
        value=(plan * cost.masked_fill(plan == 0, 0)).sum((-2, -1)) + by_mass,
        marginal_error=error,
        iterations=0,
        evaluations=0,
        converged=torch.tensor([one[3] for one in solved], device=cost.device).reshape(leading),
        shape=(num_rows, num_columns),
        stages=("exact",),
    )


def partial(cost: Tensor, a: Tensor, b: Tensor, *, mass: float | Tensor) -> Plan:
    """Minimise <T, C> over plans that move `mass`, with row sums of at most a and column sums of at most b.

    Args:
        cost: [..., N, M].
        a: [..., N].
        b: [..., M].
        mass: 0 to the sums of a and of b, one for all or [...].

    Returns:
        A dense plan, as from `exact`.

    Raises:
        ValueError: shapes that do not fit, a mass below 0, or more than a or b hold.
    """
    return without_slack(exact(*partial_problem(cost, a, b, mass=mass)), cost.shape)


def _solve(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    import ot

    forbidden = np.isinf(cost)
    if forbidden.any():
        allowed = cost[~forbidden]
        reach = 1 + (np.ptp(allowed) if len(allowed) else 0)
        cost = np.where(forbidden, cost[~forbidden].max(initial=0) + reach * sum(cost.shape), cost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan, log = ot.emd(a, b * (a.sum() / b.sum()), cost, numItermax=_MAX_PIVOTS, log=True)
    if (plan[forbidden] > 1e-9 * a.sum()).any():
        raise ValueError("cost: no plan avoids the infinite costs; allow more pairs")
    return plan, log["u"], log["v"], log["warning"] is None


class Problem(NamedTuple):
    """Problem of a solver: cost [..., N, M], mass of each row [..., N] and of each column [..., M]."""

    cost: Tensor
    a: Tensor
    b: Tensor


def partial_problem(cost: Tensor, a: Tensor, b: Tensor, *, mass: float | Tensor) -> Problem:
    """Transport just a part: rows send at most a, columns take at most b, `mass` moves in all.

    Args:
        cost: [..., N, M].
        a: [..., N].
        b: [..., M].
        mass: 0 to the sums of a and of b, one for all or [...].

    Returns:
        A balanced problem with a dummy row and a dummy column, [..., N + 1, M + 1]; for `without_slack`.

    Raises:
        ValueError: a mass below 0, or more than a or b hold.

    Source: Chapel, Alaya, Gasso, "Partial optimal transport with applications on positive-unlabeled learning", 2020,
    proposition 1.
    """
    a, b = check_masses(cost, a, b)
    mass = torch.as_tensor(mass, dtype=cost.dtype, device=cost.device)
    if not (mass >= 0).all():
        raise ValueError(f"mass: not at least 0 ({float(mass.min()):.6g}); give a part of what the rows hold")
    left_a, left_b = a.sum(-1) - mass, b.sum(-1) - mass
    _require("mass", torch.minimum(left_a, left_b), a.sum(-1), "more than the rows or the columns hold; lower it")
    return _pad(cost, a, b, row=left_b, column=left_a, drop=0.0, corner=torch.inf)


def capacity_problem(cost: Tensor, a: Tensor, capacity: Tensor) -> Problem:
    """Rows send exactly a, columns take at most their capacity.

    Args:
        cost: [..., N, M].
        a: [..., N].
        capacity: [..., M], summing to at least the sum of a.

    Returns:
        A balanced problem with a dummy row, [..., N + 1, M]; for `without_slack`.

    Raises:
        ValueError: too little capacity.
    """
    a, capacity = check_masses(cost, a, capacity)
    spare = capacity.sum(-1) - a.sum(-1)
    _require("capacity", spare, a.sum(-1), "less than the rows send; raise it or drop with a price")
    return _pad(cost, a, capacity, row=spare, column=None, drop=0.0, corner=0.0)


def dropping_problem(cost: Tensor, a: Tensor, capacity: Tensor, *, price: float) -> Problem:
    """Rows send at most a, columns take at most their capacity, and what a row keeps costs `price` per mass.

    Args:
        cost: [..., N, M].
        a: [..., N].
        capacity: [..., M], of any sum.
        price: in units of cost.

    Returns:
        A balanced problem with a dummy row and a dummy column, [..., N + 1, M + 1]; for `without_slack`.
    """
    a, capacity = check_masses(cost, a, capacity)
    return _pad(cost, a, capacity, row=capacity.sum(-1), column=a.sum(-1), drop=price, corner=0.0)


def without_slack(plan: Plan, shape: torch.Size | tuple[int, ...]) -> Plan:
    """Returns the plan without its dummy row and column; `shape` is that of the cost without dummies.

    Its `value` still includes the regulariser's terms of the dummies.
    """
    num_rows, num_columns = shape[-2:]
    values, indices = plan.values, plan.indices
    if indices is None:
        values = values[..., :num_rows, :num_columns]
    else:
        lines, entries = (num_rows, num_columns) if plan.axis == "rows" else (num_columns, num_rows)
        values, indices = values[..., :lines, :], indices[..., :lines, :]
        real = indices < entries
        values, indices = values * real, indices * real
    f, g = plan.potentials
    potentials = (f[..., :num_rows], g[..., :num_columns])
    return replace(plan, values=values, indices=indices, potentials=potentials, shape=(num_rows, num_columns))


def _pad(
    cost: Tensor, a: Tensor, b: Tensor, *, row: Tensor, column: Tensor | None, drop: float, corner: float
) -> Problem:
    if column is not None:
        cost = torch.cat([cost, cost.new_full([*cost.shape[:-1], 1], drop)], dim=-1)
        b = torch.cat([b, column[..., None]], dim=-1)
    dummy = cost.new_zeros([*cost.shape[:-2], 1, cost.shape[-1]])
    if column is not None:
        dummy[..., -1] = corner
    return Problem(torch.cat([cost, dummy], dim=-2), torch.cat([a, row[..., None]], dim=-1), b)


def _require(field: str, left: Tensor, mass: Tensor, problem: str) -> None:
    rounding = 8 * torch.finfo(mass.dtype).eps * mass.shape[-1] if mass.ndim else 8 * torch.finfo(mass.dtype).eps
    if (left < -rounding * mass).any():
        raise ValueError(f"{field}: {problem} ({float(left.min()):.6g} left)")
