"""A control that keeps a running cost of the states low."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow import cost
from trainer.flow.condition import Condition
from trainer.flow.control.protocol import Control, ControlInputs, Controlled
from trainer.flow.cost import RunningCost, differentiable_values
from trainer.flow.sampler.protocol import Field


class CostGradientConfig(Section):
    """Less of the gradient of a running cost: v - strength weight(t) gradient."""

    kind: Literal["cost_gradient"] = "cost_gradient"
    cost: cost.Config
    """What is kept low: attention, or a class of your own."""
    strength: float = Setting(default=4.0, ge=0, allow_inf_nan=False)
    """0 leaves the field as it is. A cost that changes by 1 over a unit of the state takes some units, the attention of
    a small network hundreds: watch what the cost becomes."""
    weight: Literal["time", "memoryless", "constant"] = "time"
    """time: 1 - t, the optimal control of a deterministic path to first order. memoryless: sigma^2 (1 - t), that of the
    memoryless random path, with sigma^2 = 2 (1 - t + floor) / (t + floor). constant: 1, plain guidance."""
    floor: float = Setting(default=1e-3, gt=0, allow_inf_nan=False)
    """Keeps the memoryless weight finite at t = 0."""
    limit: float | None = Setting(default=1.0, gt=0, allow_inf_nan=False)
    """The control of an example is at most this many times as long as its velocity; null: no limit."""


class CostGradient(Control):
    """Subtracts the gradient of a cost from the velocity.

    The cost to go, of which the optimal control is the gradient, is taken to grow by the cost at the present state for
    all of the remaining time: a(x, t) = (1 - t) grad f(x, t), one step of the adjoint equation. Only the cost is
    differentiated, under the condition of the examples alone; the field, guided or not, is asked once and without
    gradient.

    Source: Bill, Simsar and Hofmann, "Optimal Control Meets Flow Matching: A Principled Route to Multi-Subject
    Fidelity", arXiv 2510.02315, the control at test time (FOCUS); `memoryless` is the weight of its published code.
    """

    def __init__(self, config: CostGradientConfig, inputs: ControlInputs) -> None:
        self._config, self._inputs = config, inputs
        self._cost = cost.build(config.cost, inputs.network)

    def over(self, field: Field) -> Field:
        if self._config.strength == 0:
            return field
        return AlongCost(field, self._inputs.path, self._config, self._cost, self._inputs.condition)


@dataclass(frozen=True)
class AlongCost(Controlled):
    """The field of `CostGradient`."""

    config: CostGradientConfig
    cost: RunningCost
    condition: Condition

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity = self.field(x, t)
        weight = self.config.strength * weight_at(t, self.config)
        control = weight.to(x.dtype).view(-1, *(1,) * (x.ndim - 1)) * self._gradient(x, t)
        return velocity - limited(control, velocity, self.config.limit)

    def within(self, segment: int, /) -> Self:
        """A cost that asks the network asks the blocks of the segment, too."""
        inside = replace(self.condition, segment=segment)
        return replace(self, field=self.field.within(segment), condition=inside)

    def _gradient(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            values = differentiable_values(self.cost, state, t, self.condition)
            (gradient,) = torch.autograd.grad(values.sum(), state, allow_unused=True, materialize_grads=True)
        return gradient


def weight_at(t: Tensor, config: CostGradientConfig) -> Tensor:
    """The weights [B] of gradients at times [B], without the strength."""
    match config.weight:
        case "time":
            return 1 - t
        case "memoryless":
            return 2 * (1 - t + config.floor) / (t + config.floor) * (1 - t)
        case "constant":
            return torch.ones_like(t)


def limited(control: Tensor, velocity: Tensor, limit: float | None) -> Tensor:
    """Shortens a control [B, *D] where it is longer than `limit` times the velocity [B, *D] of its example."""
    if limit is None:
        return control
    length, most = (torch.linalg.vector_norm(value.flatten(1), dim=1) for value in (control, velocity))
    share = (limit * most / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1)
    return control * share.view(-1, *(1,) * (control.ndim - 1))
