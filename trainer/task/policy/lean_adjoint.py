"""What a state on the way of a frozen flow owes to the reward at its end and to the costs on its way.

Shape suffixes: K steps, B batch; the values of a state follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.cost import RunningCost, differentiable_values
from trainer.flow.sampler import Memoryless
from trainer.flow.sampler.protocol import Field
from trainer.flow.sampler.sde import inside


class LeanAdjoint(NamedTuple):
    """Velocities and adjoints [K - 1, B, *D] of the frozen flow at the inner times of paths, and running costs [B].

    An adjoint is the gradient of what is still to be paid if the path continued along the frozen flow.
    """

    velocity: Tensor
    adjoint: Tensor
    cost: Tensor


def lean_adjoint(
    base: Field,
    step: Memoryless,
    x: Tensor,
    times: Tensor,
    terminal: Tensor,
    condition: Condition,
    cost: RunningCost | None = None,
    *,
    weight: float = 1.0,
) -> LeanAdjoint:
    """Solves the lean adjoint equation backwards along paths x [K + 1, B, *D] at times [K + 1] from 0 to 1.

    da/dt = -(J^T a + weight grad f) from a = `terminal` at the last time, the gradient of what is paid at the end (the
    negative one of a reward), with the Jacobian J of the base's memoryless drift b = 2 v - kappa x. Euler's step from
    t_{i+1} to t_i has J and the cost's gradient at the state of t_{i+1}, where it begins: with those at t_i, where
    kappa is larger, the tilt of a Gaussian falls short by fifteen times as much at 40 steps.

    K calls of the base, and as many of the cost; no gradients are kept. Raises ValueError where the cost is no
    differentiable value of each example. Domingo-Enrich et al., "Adjoint Matching", arXiv 2409.08861, equations 38, 39.
    """
    adjoint, paid = terminal, x.new_zeros(x.shape[1])
    velocities, adjoints = [], []
    for number in range(len(times) - 1, 0, -1):
        t, h = times[number], times[number] - times[number - 1]
        with torch.enable_grad():
            state = x[number].detach().requires_grad_()
            velocity = base(state, inside(t).expand(len(state)))
            owed = ((2 * velocity - step.kappa(t) * state) * adjoint).sum()
            if cost is not None:
                costs = differentiable_values(cost, state, t.expand(len(state)), condition)
                owed = owed + weight * costs.sum()
                paid = paid + h * costs.detach()
            (gradient,) = torch.autograd.grad(owed, state)
        velocities.append(velocity.detach())
        adjoints.append(adjoint)
        adjoint = adjoint + h * gradient
    return LeanAdjoint(torch.stack(velocities[:0:-1]), torch.stack(adjoints[:0:-1]), paid)


def end_gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The values [B] of the last states [B, *D] of paths, and their gradient [B, *D], both without gradients."""
    with torch.enable_grad():
        state = x.detach().requires_grad_()
        values = value(state)
        (gradient,) = torch.autograd.grad(values.sum(), state, allow_unused=True, materialize_grads=True)
    return values.detach(), gradient
