"""Controls and costs of a user's, for tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer.flow import Condition
from trainer.flow.control import Control, Controlled
from trainer.flow.cost import RunningCost
from trainer.flow.path import Path
from trainer.flow.sampler import Field


class Towards(Control):
    """Pulls to a place of the class: v + strength (label - x)."""

    def __init__(self, path: Path, condition: Condition, strength: float = 1.0) -> None:
        self.path, self.condition, self.strength = path, condition, strength

    def over(self, field: Field) -> Field:
        """The very field where the strength is 0."""
        return Pulled(field, self.path, self) if self.strength else field


@dataclass(frozen=True)
class Pulled(Controlled):
    """See `Towards`."""

    control: Towards

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Controlled.velocity`."""
        assert self.control.condition.label is not None
        label = self.control.condition.label.view(-1, *(1,) * (x.ndim - 1))
        return self.field(x, t) + self.control.strength * (label - x)


class OfPicture(Towards):
    """A control that has no meaning without pictures."""

    def __init__(self, path: Path, condition: Condition, picture: Tensor) -> None:
        super().__init__(path, condition)
        self.picture = picture


class Predicted(RunningCost):
    """The squares of what the network predicts, by a call of the network's own."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See `RunningCost`."""
        return self.network(x, t, condition).square().flatten(1).sum(1)


class Distance(RunningCost):
    """Half the squared distance to a point whose values are those of the class, of which the gradient is x - label."""

    def __call__(self, x: Tensor, _t: Tensor, condition: Condition) -> Tensor:
        """See `RunningCost`."""
        assert condition.label is not None
        return 0.5 * (x - condition.label.view(-1, *(1,) * (x.ndim - 1))).square().flatten(1).sum(1)
