"""Ascents of concave functions: limited-memory BFGS for many at once, and balancing potentials in a fixed number of
evaluations, for devices whose host must not wait.

Shape suffixes: P problems, D variables, H remembered steps; N rows (tokens), M columns (experts), W best columns of a
row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_HISTORY = 10
_SUFFICIENT = 1e-4
_SHORTEST, _LONGEST = 0.1, 0.5
_TIMES_SHORTENED = 20
_AS_HIGH = 1e-4

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
_FIRST_TEMPERATURE = 0.5
_FIRST_DAMPING, _LAST_DAMPING = 0.3, 0.02
"""Multiples of the loads added to Newton's matrix: a smaller first one overshoots, a larger last one is slow."""
_CORRECTIONS = 2
"""Evaluations of the quadratic plan."""
_UNIFORM = 1e-7
"""Share of the uniform plan that is added to entropic plans."""
_WIDTH = 8
"""Least number of entries among which a row's threshold is searched; four times its mass if that is more."""


@dataclass(frozen=True, eq=False)
class Ascent:
    """End of the climb.

    Attributes:
        point: the last accepted point of each problem, or its accepted point of least error, [P, D].
        value: its values, [P].
        gradient: its gradients, [P, D].
        iterations: accepted steps, [P].
        evaluations: calls of the function.
        converged: bool [P].
    """

    point: Tensor
    value: Tensor
    gradient: Tensor
    iterations: Tensor
    evaluations: int
    converged: Tensor


def ascend(
    evaluate: Evaluate,
    start_PD: Tensor,
    *,
    scale: Tensor,
    optimal: Callable[[Tensor], Tensor],
    max_iterations: int,
    max_evaluations: int,
    error: Callable[[Tensor], Tensor] | None = None,
) -> Ascent:
    """Climb P concave functions in lockstep, each with its own curvature, step length and end.

    One call of `evaluate` serves all problems: those whose trial point rose enough take a new direction, the others
    shorten their step, those that are done stay where they are. So a problem's path does not depend on its company.
    A rise is measured with a slack of a few roundings of the value, without which float32 wastes its evaluations.

    Args:
        evaluate: values [P] and (super)gradients [P, D] at points [P, D].
        start_PD: where to begin.
        scale: first step over the gradient, positive, [P].
        optimal: whether a gradient [P, D] is small enough, bool [P].
        max_iterations: accepted steps at most.
        max_evaluations: evaluations at most, at least 1.
        error: of a gradient [P, D], [P]. Where the peak is a kink, gradients grow again on the way to it: a climb that
            does not converge then ends, of the accepted points that are within 1e-4 of its whole rise of the last, at
            the one of least error. None: at the last.

    Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989, algorithm 2.1.
    """
    point, trial = start_PD, start_PD
    value, gradient = evaluate(start_PD)
    converged = optimal(gradient)
    iterations = torch.zeros_like(converged, dtype=torch.int64)
    done = converged | (iterations >= max_iterations)
    memory = _Memory(start_PD, scale)
    direction = memory.direction(gradient)
    slope = (direction * gradient).sum(-1)
    step = torch.ones_like(value)
    slack = 16 * torch.finfo(value.dtype).eps
    shortened = torch.zeros_like(iterations)
    evaluations = 1
    least = _Least(point, value, gradient, error) if error is not None else None
    while evaluations < max_evaluations and not done.all():
        trial = torch.where(done[:, None], point, point + step[:, None] * direction)
        trial_value, trial_gradient = evaluate(trial)
        evaluations += 1
        rise = trial_value - value
        accepted = ~done & (rise >= _SUFFICIENT * step * slope - slack * value.abs())
        memory.remember(trial - point, gradient - trial_gradient, accepted)
        point = torch.where(accepted[:, None], trial, point)
        value = torch.where(accepted, trial_value, value)
        gradient = torch.where(accepted[:, None], trial_gradient, gradient)
        iterations = iterations + accepted
        direction = torch.where(accepted[:, None], memory.direction(gradient), direction)
        slope = (direction * gradient).sum(-1)
        # The peak of the parabola through the value, the slope and the trial value.
        peak = 0.5 * step * slope / (step * slope - rise).clamp_min(torch.finfo(value.dtype).tiny)
        shorter = step * peak.clamp(_SHORTEST, _LONGEST)
        step = torch.where(accepted, torch.ones_like(step), shorter)
        shortened = torch.where(accepted, 0, shortened + 1)
        converged = optimal(gradient)
        done = done | converged | (iterations >= max_iterations) | (shortened >= _TIMES_SHORTENED)
        if least is not None:
            least.see(point, value, gradient)
    if least is not None:
        point, value, gradient = least.point, least.value, least.gradient
    return Ascent(point, value, gradient, iterations, evaluations, converged)


class _Least:
    """Keeps, for each problem, the point of least error among the accepted points of about the highest value."""

    def __init__(self, point: Tensor, value: Tensor, gradient: Tensor, error: Callable[[Tensor], Tensor]) -> None:
        self.point, self.value, self.gradient = point, value, gradient
        self._error, self._least, self._lowest = error, error(gradient), value

    def see(self, point: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Replaces the kept point of each problem where the new one has no larger error or a much higher value."""
        error = self._error(gradient)
        better = (error <= self._least) | (value - self.value > _AS_HIGH * (value - self._lowest))
        self._least = torch.where(better, error, self._least)
        self.point = torch.where(better[:, None], point, self.point)
        self.value = torch.where(better, value, self.value)
        self.gradient = torch.where(better[:, None], gradient, self.gradient)


class _Memory:
    """Keeps the last steps of each problem and the changes of its gradient, for L-BFGS."""

    def __init__(self, start_PD: Tensor, scale: Tensor) -> None:
        self.steps_HPD = start_PD.new_zeros([0, *start_PD.shape])
        self.changes_HPD = self.steps_HPD
        self.inverse_HP = start_PD.new_zeros([0, len(start_PD)])
        self.scale = scale

    def remember(self, step_PD: Tensor, change_PD: Tensor, accepted: Tensor) -> None:
        """Keeps the pairs of the problems that moved; a pair without positive curvature is forgotten at once."""
        curvature = (step_PD * change_PD).sum(-1)
        square = (change_PD * change_PD).sum(-1)
        bent = accepted & (curvature > torch.finfo(square.dtype).eps * square * self.scale)
        tiny = torch.finfo(square.dtype).tiny
        inverse = torch.where(bent, 1 / curvature.clamp_min(tiny), torch.zeros_like(curvature))
        self.scale = torch.where(bent, curvature / square.clamp_min(tiny), self.scale)
        if len(self.inverse_HP) < _HISTORY:
            self.inverse_HP, self.steps_HPD, self.changes_HPD = (
                torch.cat([new[None], kept])
                for new, kept in (
                    (inverse, self.inverse_HP),
                    (step_PD, self.steps_HPD),
                    (change_PD, self.changes_HPD),
                )
            )
            return
        self.inverse_HP = _push(self.inverse_HP, inverse, bent)
        self.steps_HPD = _push(self.steps_HPD, step_PD, bent)
        self.changes_HPD = _push(self.changes_HPD, change_PD, bent)

    def direction(self, gradient_PD: Tensor) -> Tensor:
        """The gradient times the inverse curvature of the remembered steps, newest first."""
        direction = gradient_PD
        weights = []
        for step, change, inverse in zip(self.steps_HPD, self.changes_HPD, self.inverse_HP, strict=True):
            weight = (inverse * (step * direction).sum(-1))[:, None]
            direction = direction - weight * change
            weights.append(weight)
        direction = self.scale[:, None] * direction
        for step, change, inverse in zip(
            self.steps_HPD.flip(0), self.changes_HPD.flip(0), self.inverse_HP.flip(0), strict=True
        ):
            weight = weights.pop() - (inverse * (change * direction).sum(-1))[:, None]
            direction = direction + weight * step
        return direction


def _push(kept: Tensor, new: Tensor, where: Tensor) -> Tensor:
    shifted = torch.cat([new[None], kept[:-1]])
    return torch.where(where.view(1, -1, *[1] * (kept.ndim - 2)), shifted, kept)


class Balance(NamedTuple):
    """Potentials, and how well they balanced before they were last corrected.

    Attributes:
        potentials: of the columns, their mean 0, [M].
        residual: largest |load - b| over the mean of b at the last evaluation, []. The potentials have made one more
            correction since, so that theirs is smaller as a rule.
    """

    potentials: Tensor
    residual: Tensor


def balancing_potentials(
    scores_NM: Tensor,
    start_M: Tensor,
    *,
    mass: float,
    gamma: float,
    evaluations: int,
    rows: Tensor | None = None,
    counted_N: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Balance:
    """Potentials on the columns at which the rows' quadratic plan gives every column the same load.

    The same problem as that of :func:`moe.ot.expert_potentials` with even loads and with no limit on a row's entries,
    but without a tolerance: the operations are the same whatever the numbers are, and none is read by the host. The
    first evaluations are of entropic plans (softmax) at falling temperatures, each followed by a Newton step for the
    logarithms of the loads. Damping by a multiple of the loads turns Newton's matrix towards the fixed-point step of
    Sinkhorn's method where columns are far from their load. The last temperature makes the entropic plan change with
    the potentials as the quadratic plan does on average: a row's choice between two columns blurs over a difference of
    the same standard deviation. So the inverse of the last matrix also serves the last two evaluations, which are of
    the quadratic plan.

    Args:
        scores_NM: score of each column for each row, in units of about one standard deviation.
        start_M: potentials to begin with, such as those of the step before.
        mass: of each row, positive.
        gamma: strength of the quadratic term, positive, in units of score over mass.
        evaluations: plans that are computed, at least 1. Of 3 or more the last is quadratic, of 5 or more the last two;
            fewer than 4 need a good start.
        rows: number of rows that count (of all ranks), on the scores' device, []; None: all.
        counted_N: 1 for rows that count and 0 for padding; None: all count. Needs `rows`.
        reduce: sums a tensor over ranks, so that the loads of all ranks together are balanced. Called once per
            evaluation: on [M, M] of an entropic plan, on [M] of a quadratic one, in :func:`summed_elements`.

    Returns:
        The potentials. There is no sign of failure but the residual, which the caller reports.

    Source: the problem: Liu, Puigcerver, Blondel, "Sparsity-constrained optimal transport", 2023, equation 10; Newton
    steps for entropic transport: Brauer, Clason, Lorenz, Wirth, "A Sinkhorn-Newton method for entropic optimal
    transport", 2017, section 2.
    """
    columns = scores_NM.shape[1]
    width = min(max(_WIDTH, math.ceil(4 * mass)), columns)
    spread = mass * gamma
    numbers_W = torch.linspace(1 / spread, width / spread, width, device=scores_NM.device, dtype=scores_NM.dtype)
    loads = _Loads(scores_NM, (numbers_W[:1], _UNIFORM / columns * spread), rows, counted_N, reduce)
    softened = evaluations - _corrections(evaluations)
    temperatures = _falling(_FIRST_TEMPERATURE, spread / math.pi, softened)
    dampings = _falling(_FIRST_DAMPING, _LAST_DAMPING, softened)
    potentials_M, missing_M = start_M / temperatures[0], start_M
    inverse_MM = start_M
    for temperature, following, damping in zip(temperatures, [*temperatures[1:], 1.0], dampings, strict=True):
        plan_NM = torch.add(potentials_M, scores_NM, alpha=1 / temperature).softmax(dim=1)
        matrix_MM = loads.of_pairs(plan_NM)
        load_M = matrix_MM.sum(dim=1)
        matrix_MM.diagonal().sub_(load_M, alpha=1 + damping)
        inverse_MM = torch.linalg.inv_ex(matrix_MM).inverse
        missing_M = torch.special.entr(load_M)  # the load times the logarithm of 1 / load
        scale = temperature / following
        potentials_M = torch.addmv(potentials_M, inverse_MM, missing_M, beta=scale, alpha=-scale)
    shares_W = numbers_W.reciprocal()
    # A product gives the means of the first entries: running sums of floats are not reproducible on CUDA.
    means_WW = shares_W.expand(width, width).triu()
    for _ in range(_corrections(evaluations)):
        priced_NM = potentials_M + scores_NM
        best_NW = priced_NM.topk(width, dim=1).values
        # Minus the thresholds. A threshold is the largest of these: each is that of a smaller set of entries.
        raised_N1 = torch.addmm(shares_W, best_NW, means_WW, alpha=-1 / spread).amin(dim=1, keepdim=True)
        load_M = loads.of_columns(priced_NM.add_(raised_N1).relu_())
        missing_M = torch.rsub(load_M, 1.0, alpha=loads.unit / spread)
        potentials_M = torch.addmv(potentials_M, inverse_MM, missing_M, alpha=-temperatures[-1])
    return Balance(potentials_M - potentials_M.mean(), torch.linalg.vector_norm(missing_M, math.inf))


def summed_elements(columns: int, evaluations: int) -> tuple[int, ...]:
    """Elements of each tensor that :func:`balancing_potentials` sums over ranks, one number an evaluation."""
    last = _corrections(evaluations)
    return (columns * columns,) * (evaluations - last) + (columns,) * last


class _Loads:
    """Sums over the rows of all ranks, in units of an even load; a sum of :meth:`of_columns` counts in `unit`."""

    def __init__(
        self,
        scores_NM: Tensor,
        floor: tuple[Tensor, float],
        rows: Tensor | None,
        counted_N: Tensor | None,
        reduce: Callable[[Tensor], Tensor] | None,
    ) -> None:
        number, columns = scores_NM.shape
        self._reduce = reduce
        self._floor = floor
        self._share_N: Tensor | None = None
        self.unit = columns / max(number, 1)
        if rows is not None:
            share = columns / rows.to(scores_NM.dtype).clamp_min(1)
            self._share_N = share.expand(number) if counted_N is None else counted_N * share
            self.unit = 1.0

    def of_pairs(self, plan_NM: Tensor) -> Tensor:
        """The plan's product with itself, whose rows sum to the loads of a plan with rows of 1.

        A trace of the uniform plan keeps every load positive.
        """
        weighted_NM = plan_NM if self._share_N is None else plan_NM * self._share_N[:, None]
        pairs_MM = torch.addmm(self._floor[0], weighted_NM.mT, plan_NM, beta=self._floor[1], alpha=self.unit)
        return pairs_MM if self._reduce is None else self._reduce(pairs_MM)

    def of_columns(self, plan_NM: Tensor) -> Tensor:
        """The sums of a plan's columns, over the unit."""
        load_M = plan_NM.sum(dim=0) if self._share_N is None else plan_NM.mT.mv(self._share_N)
        return load_M if self._reduce is None else self._reduce(load_M)


def _corrections(evaluations: int) -> int:
    return min(_CORRECTIONS, (evaluations - 1) // 2)


def _falling(first: float, last: float, number: int) -> list[float]:
    """Returns `number` values in geometric steps from `first` down to `last`; a single value is `first`."""
    first = max(first, last)
    return [first * (last / first) ** (i / max(number - 1, 1)) for i in range(number)]
