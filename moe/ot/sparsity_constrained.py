"""Sparsity-constrained transport: at most k entries in each column, or in each row.

Shape suffixes: N rows, M columns.
"""

from dataclasses import replace
from typing import Literal

from torch import Tensor

from moe.ot.dual import dual
from moe.ot.problem import Axis, Plan
from moe.ot.semi_dual import semi_dual
from moe.ot.two_stage import expert_potentials, fill_capacity

Method = Literal["two_stage", "semi_dual", "dual"]
_CANDIDATES = 8


def sparsity_constrained(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    k: int,
    gamma: float,
    axis: Axis = "columns",
    method: Method = "two_stage",
    warm_start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-2,
    max_evaluations: int = 100,
    capacity_iterations: int = 3,
    candidates: int | None = None,
) -> Plan:
    """Solve the dual of min <T, C> + gamma/2 |T|^2 over plans T with at most k entries in each line of one axis.

    The problem is not convex and may have a duality gap: where gamma asks for more spread than k allows, the plan
    misses its marginals however long one climbs, and `marginal_error` says by how much; "dual" and "semi_dual" then
    give the plan of least error that they came by. With one entry a line the
    value is that of exact transport plus gamma/2 |b|^2; with all entries it is that of `quadratic`.

    Args:
        cost: for routing, minus the logits over their standard deviation, [..., N, M].
        a: mass of each row (token: 1), [..., N].
        b: mass of each column (expert: tokens over experts), of the same sum as a, [..., M].
        k: entries of a line at most: tokens of an expert (axis "columns") or experts of a token ("rows").
        gamma: strength of the quadratic term, in units of cost over mass.
        axis: the lines that k bounds; they are exact in "two_stage" and "semi_dual".
        method: "dual" climbs the potentials of both sides; "semi_dual" those of the side that k does not bound;
            "two_stage" is the semi-dual for rows, and for columns `expert_potentials`, then `fill_capacity`.
        warm_start: `potentials` of an earlier plan.
        tolerance: largest violation of a row or column sum, over the side's mean mass, to stop at.
        max_evaluations: evaluations at most, of both stages together; the second has one at least.
        capacity_iterations: steps of the second of two stages.
        candidates: columns that a row may spread over while columns are priced ("two_stage"); more than k makes a
            small k smooth, the plan is then cut to k. By default k for rows, 8 for columns.

    Returns:
        A plan listed along the axis.

    Raises:
        ValueError: shapes that do not fit, arguments out of range, or masses of unequal sums.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equations 9 and 10.
    """
    if axis not in ("rows", "columns") or method not in ("two_stage", "semi_dual", "dual"):
        raise ValueError(f"axis, method: unknown ({axis}, {method}); see the documentation of sparsity_constrained")
    limits = {"tolerance": tolerance, "max_evaluations": max_evaluations}
    column_start = None if warm_start is None else warm_start[1]
    if method == "two_stage" and axis == "columns":
        spread = min(candidates or _CANDIDATES, cost.shape[-1])
        plan = expert_potentials(cost, a, b, k=spread, gamma=gamma, warm_start=column_start, **limits)
        left = max(1, min(4 * capacity_iterations, max_evaluations - plan.evaluations))
        cut = {"tolerance": tolerance, "max_evaluations": left, "iterations": capacity_iterations}
        return fill_capacity(cost, plan, k=k, gamma=gamma, b=b, **cut)
    if method == "two_stage" and candidates is not None and candidates > k:
        wide = expert_potentials(cost, a, b, k=candidates, gamma=gamma, warm_start=column_start, **limits)
        plan = semi_dual(cost, a, b, k=k, gamma=gamma, start=wide.potentials[1], tolerance=tolerance, max_evaluations=1)
        return replace(plan, iterations=wide.iterations, evaluations=wide.evaluations + 1)
    if axis == "columns":
        starts = None if warm_start is None else (warm_start[1], warm_start[0])
        return sparsity_constrained(
            cost.mT.contiguous(), b, a, k=k, gamma=gamma, axis="rows", method=method, warm_start=starts, **limits
        ).transposed()
    if method == "dual":
        return dual(cost, a, b, k=k, gamma=gamma, start=warm_start, **limits)
    return semi_dual(cost, a, b, k=k, gamma=gamma, start=column_start, keep_least_error=True, **limits)
