"""The protocol of controls, which change the field that a sampler follows, and the control that lowers a cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field as Setting
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow import cost
from trainer.flow.condition import Condition, per_value
from trainer.flow.cost import RunningCost, differentiable_values
from trainer.flow.path import Path
from trainer.flow.reward import RewardInputs
from trainer.flow.sampler.protocol import Field
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import convert


class Control(Protocol):
    """Changes a field.

    A control is a function of state and time, not of the number of a step, so that it means the same under every
    sampler and on every grid. At strength 0 it returns the field that it was given.
    """

    def over(self, field: Field) -> Field:
        """Returns the changed field, given the one that a sampler would follow without this control."""
        ...


@dataclass(frozen=True)
class ControlInputs:
    """Everything that a control may use besides the field, for B drawn examples, whose rows are those of the states.

    Attributes:
        network: the flow's network without guidance; a cost may ask it questions besides the prediction.
        picture: [B, *D] the states of the pictures that are edited or restored; None if absent.
        mask: how much of the picture is held at each value, 0 to 1, broadcasts to the states; None: all of it.
        keys: int64 [B] keys of the examples; random draws are functions of them; None: a control may not draw.
        rewards: what rewards are built from; None: states are not examples, so that no reward can value them.
    """

    path: Path
    condition: Condition
    network: Callable[..., Any]
    picture: Tensor | None = None
    mask: Tensor | None = None
    keys: Tensor | None = None
    rewards: RewardInputs | None = None

    def picture_for(self, kind: str) -> Tensor:
        """The picture; raises ValueError, which names the kind of control, if there is none."""
        if self.picture is None:
            raise ValueError(f"{kind}: it leads to a picture, and there is none; use the edit verb, which has pictures")
        return self.picture


@dataclass(frozen=True)
class Controlled(Field):
    """A field with the velocity of another one, changed; all its other quantities follow from the changed velocity."""

    field: Field
    path: Path

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The changed velocity [B, *D] at states [B, *D] and times [B]."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        return self.velocity(x, t)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        velocity = self.velocity(x, t)
        return tuple(convert(velocity, x, t, self.path, source="velocity", to=to) for to in quantities)

    def within(self, segment: int, /) -> Self:
        return replace(self, field=self.field.within(segment))


def controlled(field: Field, controls: Sequence[Control]) -> Field:
    """Applies controls to a field in their order: the first changes the field itself."""
    for control in controls:
        field = control.over(field)
    return field


class CostGradientConfig(Section):
    """Subtracts the gradient of a running cost from the velocity: v - strength weight(t) gradient."""

    kind: Literal["cost_gradient"] = "cost_gradient"
    cost: cost.Config
    """Running cost that is kept low: attention, or a class of your own."""
    strength: float = Setting(default=4.0, ge=0, allow_inf_nan=False)
    """Factor of the gradient; 0 leaves the field as it is. A cost that changes by 1 over a unit of the state takes a
    strength of some units, the attention of a small network one of hundreds: watch what the cost becomes."""
    weight: Literal["time", "memoryless", "constant"] = "time"
    """Weight of the gradient over time. time: 1 - t, the optimal control of a deterministic path to first order.
    memoryless: sigma^2 (1 - t), the same for the memoryless random path, with sigma^2 = 2 (1 - t + floor) / (t +
    floor). constant: 1, plain guidance."""
    floor: float = Setting(default=1e-3, gt=0, allow_inf_nan=False)
    """Number above 0 that keeps the memoryless weight finite at t = 0."""
    limit: float | None = Setting(default=1.0, gt=0, allow_inf_nan=False)
    """Largest norm of the control of an example, as a multiple of the norm of its velocity; null: no limit."""
    needs_picture: ClassVar[bool] = False

    def build(self, inputs: ControlInputs) -> CostGradient:
        return CostGradient(self, inputs)


class CostGradient(Control):
    """Subtracts the gradient of a cost from the velocity.

    The optimal control is the gradient of the cost to go. That cost is estimated as the present cost for all of the
    remaining time: a(x, t) = (1 - t) grad f(x, t), one step of the adjoint equation. Only the cost is differentiated,
    under the condition of the examples alone; the field is evaluated once, without gradient. Bill, Simsar and Hofmann,
    FOCUS, arXiv 2510.02315, whose code has the weight `memoryless`.
    """

    def __init__(self, config: CostGradientConfig, inputs: ControlInputs) -> None:
        self._config, self._inputs = config, inputs
        self._cost = config.cost.build(inputs.network)

    def over(self, field: Field) -> Field:
        if self._config.strength == 0:
            return field
        return AlongCost(field, self._inputs.path, self._config, self._cost, self._inputs.condition)


@dataclass(frozen=True)
class AlongCost(Controlled):
    """A field whose velocity `CostGradient` changes."""

    config: CostGradientConfig
    cost: RunningCost
    condition: Condition

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        velocity = self.field(x, t)
        weight = self.config.strength * weight_at(t, self.config)
        control = per_value(weight.to(x.dtype), x) * self._gradient(x, t)
        return velocity - limited(control, velocity, self.config.limit)

    def within(self, segment: int, /) -> Self:
        """The field of a segment, whose blocks are also those that a cost calls."""
        inside = replace(self.condition, segment=segment)
        return replace(self, field=self.field.within(segment), condition=inside)

    def _gradient(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            values = differentiable_values(self.cost, state, t, self.condition)
            (gradient,) = torch.autograd.grad(values.sum(), state, allow_unused=True, materialize_grads=True)
        return gradient


def weight_at(t: Tensor, config: CostGradientConfig) -> Tensor:
    """The weights [B] of the cost's gradients at times [B], before they are multiplied by the strength."""
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
    return control * per_value(share, control)
