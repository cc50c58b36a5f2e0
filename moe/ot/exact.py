"""Exact transport by the network simplex of POT, on the CPU in float64.

Shape suffixes: N rows, M columns.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from moe.ot.problem import Plan, check_balance, check_masses, relative_error
from moe.ot.slack import partial_problem, without_slack

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
