"""Quadratic transport by its dual, with at most k entries in each row or all, over the potentials of one side or both.

The sparse simplex comes first: where the solvers spend their time.

Shape suffixes: N rows, M columns, P problems (all leading dimensions in one), K entries kept of each row, W columns
that a row looks at.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from moe.ot.ascent import ascend
from moe.ot.problem import Plan, check_balance, check_masses, check_sparsity, relative_error, scatter_sum

_ROUNDS = 50


class Projection(NamedTuple):
    """Rows projected onto the simplex of their mass with at most K entries.

    Attributes:
        indices: columns of the entries, int64 [..., N, K].
        values: mass of the entries, at least 0, descending, [..., N, K].
        threshold: the score at which an entry's mass becomes 0, [..., N].
        conjugate: the value of the maximum, [..., N].
    """

    indices: Tensor
    values: Tensor
    threshold: Tensor
    conjugate: Tensor


def project_rows(scores: Tensor, mass: Tensor, *, k: int, gamma: float) -> Projection:
    """Maximise <t, scores> - gamma/2 |t|^2 over t >= 0 with sum(t) = mass and at most k entries, row by row.

    Differentiable in scores and mass where the kept entries do not change.

    Args:
        scores: [..., N, M].
        mass: at least 0, [..., N].
        k: entries kept of each row, 1 to M (more is M).
        gamma: strength of the quadratic term, positive, in units of score over mass.

    Returns:
        The maximisers, sparse.

    Source: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, proposition 2.
    """
    best, indices = scores.topk(min(k, scores.shape[-1]), dim=-1)
    highest = best[..., :1]
    below = best - highest
    excess = below.cumsum(-1) - gamma * mass[..., None]
    ranks = torch.arange(1, below.shape[-1] + 1, device=below.device, dtype=below.dtype)
    kept = (ranks * below > excess).sum(-1, keepdim=True).clamp_min(1)
    threshold = excess.gather(-1, kept - 1) / kept
    values = (below - threshold).clamp_min(0) / gamma
    threshold = (threshold + highest)[..., 0]
    # On its support a score is threshold + gamma value.
    return Projection(indices, values, threshold, mass * threshold + 0.5 * gamma * values.square().sum(-1))


class RowSpread:
    """The sums of `project_rows` at changing column potentials, without sorting the rows.

    A row's threshold is the root of sum_j [score_j - threshold]_+ - gamma mass, convex and piecewise linear: Newton's
    method ends on it after a few passes, one or two where the potentials have moved little. Only rows whose support
    exceeds k are searched for their k best.
    """

    def __init__(
        self, cost_PNM: Tensor, mass_PN: Tensor, *, k: int, gamma: float, columns_PNW: Tensor | None = None
    ) -> None:
        """Takes costs and the masses of rows; its buffers are as large as the cost three times.

        `columns_PNW` are those that each row looks at, int64, filled up with -1; all if None.
        """
        self._columns = None
        if columns_PNW is not None:
            self._columns = columns_PNW.clamp_min(0)
            cost_PNM = cost_PNM.gather(-1, self._columns).masked_fill_(columns_PNW < 0, torch.inf)
        self._cost = cost_PNM
        self._mass = mass_PN
        self._target = gamma * mass_PN[..., None]
        self._k = k
        self._gamma = gamma
        self._scores, self._above, self._sign = (torch.empty_like(cost_PNM) for _ in range(3))
        self._threshold: Tensor | None = None

    def __call__(self, potentials_PM: Tensor) -> tuple[Tensor, Tensor]:
        """Projects all rows at potentials of the columns: mass of each column [P, M], sum of the rows' maxima [P]."""
        potentials = potentials_PM[:, None]
        if self._columns is not None:
            potentials = potentials.expand(-1, self._cost.shape[1], -1).gather(-1, self._columns)
        scores = torch.sub(potentials, self._cost, out=self._scores)
        threshold = self._newton(scores, scores.amax(-1, keepdim=True))
        if self._k < scores.shape[-1]:
            threshold = self._cut(threshold)
        self._threshold = threshold
        conjugate = (threshold * self._mass[..., None]).sum((-2, -1))
        conjugate = conjugate + torch.linalg.vector_norm(self._above, dim=(-2, -1)).square() / (2 * self._gamma)
        if self._columns is None:
            return self._above.sum(-2) / self._gamma, conjugate
        return scatter_sum(self._above, self._columns, potentials_PM.shape[-1]) / self._gamma, conjugate

    def _newton(self, scores: Tensor, highest: Tensor) -> Tensor:
        lowest = highest - self._target
        if self._threshold is None:
            threshold = lowest
        else:
            threshold = self._threshold.clamp(lowest, highest - self._target / scores.shape[-1])
        rounding = 4 * torch.finfo(scores.dtype).eps
        for _ in range(_ROUNDS):
            torch.sub(scores, threshold, out=self._above).relu_()
            excess = self._above.sum(-1, keepdim=True) - self._target
            self._support = torch.sign(self._above, out=self._sign).sum(-1, keepdim=True)
            if (excess.abs() <= rounding * (self._target + self._support * threshold.abs())).all():
                break
            threshold = threshold + excess / self._support.clamp_min(1)
        return threshold

    def _cut(self, threshold: Tensor) -> Tensor:
        binding = (self._support[..., 0] > self._k).nonzero(as_tuple=True)
        above = self._above[binding]
        best, columns = above.topk(self._k, dim=-1, sorted=False)
        # The support has more than k entries, so the k best keep their mass and gain what the others lose.
        lower = (best.sum(-1, keepdim=True) - self._target[binding]) / self._k
        self._above[binding] = torch.zeros_like(above).scatter_(-1, columns, best - lower)
        return threshold.index_put(binding, lower, accumulate=True)


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

    Rows of the plan are exact by construction. The gradient is b - load. The optimal be are constants to autograd: the
    gradient of `value` is exact by the envelope theorem, that of `values` is the one at fixed potentials.

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
    """Maximise al.a + be.b - 1/(2 gamma) sum over rows of the k largest [al_i + be_j - c_ij]_+^2; a plan by rows.

    The tolerance is the largest violation of a row or column sum, over the side's mean mass. Potentials are constants
    to autograd as in `semi_dual`.

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


def quadratic(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    gamma: float,
    warm_start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 1000,
) -> Plan:
    """Minimise <T, C> + gamma/2 |T|^2 over plans with row sums a and column sums b.

    Climbs the potentials of the shorter side; the longer is exact by construction. The potentials are constants to
    autograd: `value` has its exact gradient (in the cost: the plan), `values` the gradient at fixed potentials.

    Args:
        cost: [..., N, M].
        a: mass of each row, [..., N].
        b: mass of each column, of the same sum, [..., M].
        gamma: strength of the quadratic term, positive, in units of cost over mass.
        warm_start: `potentials` of an earlier plan.
        tolerance: largest violation of a sum on the shorter side, over its mean mass, to stop at.
        max_evaluations: evaluations at most.

    Returns:
        A dense plan.

    Raises:
        ValueError: shapes that do not fit, gamma out of range, or masses of unequal sums.

    Source: Blondel, Seguy, Rolet, "Smooth and sparse optimal transport", 2018, equation 10.
    """
    num_rows, num_columns = cost.shape[-2:]
    tall = num_rows >= num_columns
    start = None if warm_start is None else warm_start[1 if tall else 0]
    plan = semi_dual(
        cost if tall else cost.mT.contiguous(),
        a if tall else b,
        b if tall else a,
        k=max(num_rows, num_columns),
        gamma=gamma,
        start=start,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
    )
    plan = plan if tall else plan.transposed()
    return replace(plan, values=plan.dense(), indices=None, axis="rows", stages=("quadratic",))
