"""Sparsity-constrained transport: at most k entries in each column, or in each row.

The two stages of a sparse router: balance by prices on the experts, then cut to capacity where that is not enough.

Shape suffixes: N rows (tokens), M columns (experts), K slots of an expert, P problems (all leading dimensions in one).
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from moe.ot.dual import Reduce, dual, semi_dual
from moe.ot.problem import Axis, Plan, check_masses

_CHOICES = 4
_CANDIDATES = 8


def expert_potentials(
    cost_PNM: Tensor,
    a_PN: Tensor,
    b_PM: Tensor,
    *,
    k: int,
    gamma: float,
    warm_start: Tensor | None = None,
    tolerance: float = 1e-2,
    max_evaluations: int = 40,
    reduce: Reduce | None = None,
) -> Plan:
    """Price the experts until their loads are b; each token goes to its best k at these prices.

    M variables balance any number of tokens. The problem is smooth where tokens spread over fewer than k experts and
    rough for a k of 1 or 2 with a gamma that wants more: solve with k = min(8, M) there, and keep the best of
    `project_rows(plan.potentials[1] - cost, ...)`.

    Args:
        cost_PNM: for routing, minus the logits over their standard deviation, [..., N, M].
        a_PN: mass of each token, 0 for padding, [..., N].
        b_PM: mass of each expert, summing to the mass of the tokens (of all ranks), [..., M].
        k: experts of each token at most.
        gamma: strength of the quadratic term, in units of cost over mass.
        warm_start: expert potentials to begin with, such as those of the step before, [..., M].
        tolerance: largest |load - b| over the mean of b to stop at.
        max_evaluations: evaluations at most.
        reduce: sums a small tensor over ranks, so that the loads of all ranks together are balanced. Called once per
            evaluation on the value and the gradient as [P, 1 + M]; all ranks take the same decisions.

    Returns:
        A plan by rows; `potentials[1]` are the experts' potentials. With `reduce`, `value` and `marginal_error` are
        those of all ranks together.

    Raises:
        ValueError: shapes that do not fit, k or gamma out of range, or masses of unequal sums.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10.
    """
    return semi_dual(
        cost_PNM,
        a_PN,
        b_PM,
        k=k,
        gamma=gamma,
        start=warm_start,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
        reduce=reduce,
    )


def fill_capacity(
    cost: Tensor,
    plan: Plan,
    *,
    k: int,
    gamma: float,
    b: Tensor | None = None,
    iterations: int = 3,
    tolerance: float = 1e-2,
    max_evaluations: int | None = None,
) -> Plan:
    """Cut a balanced plan to at most k tokens an expert, and let the tokens that lost their place find another.

    Where no expert of a problem has more than k tokens, its plan already solves the capacity problem (it solves a
    relaxation) and is only listed by experts; `stages` says "capacity" when any problem needed more. Experts are then
    exact by construction and tokens approximate: a token in no list is dropped (`row_counts()` is 0).

    Args:
        cost: the cost that the plan was made for, [..., N, M].
        plan: by rows, from `expert_potentials`.
        k: slots of each expert, K.
        gamma: as in `expert_potentials`.
        b: mass of each expert, [..., M]. By default the plan's loads, where more than the heaviest token in every slot
            goes to the experts that have spare capacity.
        iterations: steps of the capacity problem; 3 are enough with a fifth of the slots to spare, 10 with none.
        tolerance: largest violation of a token's mass, over the mean mass, to stop at and to call converged.
        max_evaluations: evaluations of the capacity problem at most, at least 1; None: 4 an iteration.

    Returns:
        A plan by columns: indices and values [..., M, K], empty slots have the value 0. `converged` of a problem
        that was not cut is that of its `plan`.

    Raises:
        ValueError: k out of range, or more mass than slots.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10.
    """
    leading, (num_rows, num_columns) = cost.shape[:-2], cost.shape[-2:]
    if k < 1:
        raise ValueError(f"k: no slots ({k}); give at least 1")
    k = min(k, num_rows)
    a = plan.row_sums().reshape(-1, num_rows)
    load = plan.column_sums().detach().reshape(-1, num_columns)
    b = _within(load, k * a.amax(-1, keepdim=True)) if b is None else check_masses(cost, load.new_ones(1), b)[1]
    overfull = (plan.column_counts() > k).any(-1).reshape(-1)
    if not overfull.any():
        return _by_columns(plan, k)
    chosen = overfull.nonzero()[:, 0]
    cost_PNM = cost.reshape(-1, num_rows, num_columns)[chosen]
    al = plan.potentials[0].detach().reshape(-1, num_rows)[chosen]
    a, b = a[chosen], b.reshape(-1, num_columns)[chosen]
    jittered_PNM = cost_PNM + _jitter(cost_PNM, gamma)
    cut = semi_dual(
        jittered_PNM.mT.contiguous(),
        b,
        a,
        k=k,
        gamma=gamma,
        start=_below_padding(al, a, b, cost_PNM, gamma),
        max_iterations=iterations,
        tolerance=tolerance,
        max_evaluations=4 * iterations if max_evaluations is None else max_evaluations,
        columns=_candidates(jittered_PNM.detach(), plan, chosen, k),
    ).transposed()
    fitting = cut if len(chosen) == len(overfull) else _by_columns(plan, k)

    def merge(old: Tensor, new: Tensor) -> Tensor:
        flat = old.reshape(len(overfull), *new.shape[1:])
        return (new if old is new else flat.index_copy(0, chosen, new)).reshape(leading + new.shape[1:])

    assert fitting.indices is not None
    assert cut.indices is not None
    return Plan(
        values=merge(fitting.values, cut.values),
        potentials=(
            merge(fitting.potentials[0], cut.potentials[0]),
            merge(fitting.potentials[1], cut.potentials[1]),
        ),
        value=merge(fitting.value, cut.value),
        marginal_error=merge(fitting.marginal_error, cut.marginal_error),
        iterations=plan.iterations + cut.iterations,
        evaluations=plan.evaluations + cut.evaluations,
        converged=merge(fitting.converged, cut.converged),
        shape=plan.shape,
        indices=merge(fitting.indices, cut.indices),
        axis="columns",
        stages=(*plan.stages, "capacity"),
    )


def _by_columns(plan: Plan, k: int) -> Plan:
    values, indices = plan.dense().mT.topk(k, dim=-1)
    return replace(plan, values=values, indices=indices, axis="columns")


def _within(load: Tensor, capacity: Tensor) -> Tensor:
    excess = (load - capacity).clamp_min(0).sum(-1, keepdim=True)
    spare = (capacity - load).clamp_min(0)
    if (excess > 1.001 * spare.sum(-1, keepdim=True) + 1e-3 * capacity).any():
        raise ValueError(f"k: too few slots for a mass of {load.sum(-1).max():.6g}; raise it")
    share = excess / spare.sum(-1, keepdim=True).clamp_min(torch.finfo(load.dtype).tiny)
    return load.minimum(capacity) + share * spare


def _jitter(cost: Tensor, gamma: float) -> Tensor:
    """Returns a cost in the last digits that differs by row and column, so that equal tokens differ.

    It is least for column j at the rows around N j/M: equal tokens split evenly, and alike on every device.
    """
    spread = cost.detach().std((-2, -1), correction=0).clamp_min(gamma)
    amplitude = -32 * torch.finfo(cost.dtype).eps * spread[:, None]
    rows, columns = (
        2 * torch.pi * torch.arange(length, device=cost.device, dtype=torch.float64) / length
        for length in cost.shape[-2:]
    )
    across, down = (
        ((amplitude * wave(columns)).to(cost.dtype)[:, None], wave(rows).to(cost.dtype)[:, None])
        for wave in (torch.cos, torch.sin)
    )
    return (across[0] * across[1]).addcmul_(*down)


def _candidates(cost: Tensor, plan: Plan, chosen: Tensor, k: int) -> Tensor | None:
    """Tokens that each expert looks at while they compete, [P, M, W]: those that use it or that it likes best.

    Every token has some experts to go to, so none is lost from sight, and the lists are a small share of all tokens.
    They are of the chosen problems and filled up with -1; None (look at all) where an expert had fewer than slots.
    """
    num_columns = cost.shape[-1]
    be = plan.potentials[1].detach().reshape(-1, num_columns)[chosen]
    best = (be[:, None] - cost).topk(min(_CHOICES, num_columns), dim=-1).indices
    looked_at = torch.zeros(cost.mT.shape, dtype=torch.bool, device=cost.device).scatter_(1, best.mT, True)
    assert plan.indices is not None
    problem, row, place = (plan.values.detach().reshape(-1, *plan.values.shape[-2:])[chosen] > 0).nonzero(as_tuple=True)
    used = plan.indices.reshape(-1, *plan.indices.shape[-2:])[chosen][problem, row, place]
    looked_at[problem, used, row] = True
    problem, column, row = looked_at.nonzero(as_tuple=True)
    lengths = (problem * num_columns + column).bincount(minlength=len(cost) * num_columns)
    if lengths.min() < k:
        return None
    place = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    lists = row.new_full([len(cost), num_columns, int(lengths.max())], -1)
    lists[problem, column, place] = row
    return lists


def _below_padding(al: Tensor, a: Tensor, b: Tensor, cost: Tensor, gamma: float) -> Tensor:
    """Row potentials where rows without mass score too low for any column."""
    padding = a == 0
    spread = (cost.amax((-2, -1)) - cost.amin((-2, -1))).detach()
    lowest = al.masked_fill(padding, torch.inf).amin(-1)
    return torch.where(padding, (lowest - 2 * spread - gamma * b.amax(-1))[:, None], al)


Method = Literal["two_stage", "semi_dual", "dual"]


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
