"""Limited-memory BFGS that climbs many concave functions at once.

Shape suffixes: P problems, D variables, H remembered steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_HISTORY = 10
_SUFFICIENT = 1e-4
_SHORTEST, _LONGEST = 0.1, 0.5
_TIMES_SHORTENED = 20
_AS_HIGH = 1e-4

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Ascent:
    """Where the climb ended.

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

    Returns:
        The end points.

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
    """The point of least error among the highest that each problem has come by."""

    def __init__(self, point: Tensor, value: Tensor, gradient: Tensor, error: Callable[[Tensor], Tensor]) -> None:
        self.point, self.value, self.gradient = point, value, gradient
        self._error, self._least, self._lowest = error, error(gradient), value

    def see(self, point: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Takes the points that are no worse or much higher."""
        error = self._error(gradient)
        better = (error <= self._least) | (value - self.value > _AS_HIGH * (value - self._lowest))
        self._least = torch.where(better, error, self._least)
        self.point = torch.where(better[:, None], point, self.point)
        self.value = torch.where(better, value, self.value)
        self.gradient = torch.where(better[:, None], gradient, self.gradient)


class _Memory:
    """The last steps of each problem and what they did to its gradient."""

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
