"""Controls that are classes of a user's."""

from dataclasses import dataclass

from torch import Tensor

from trainer.flow import Condition
from trainer.flow.control import Control, Controlled
from trainer.flow.cost import RunningCost
from trainer.flow.path import Path
from trainer.flow.sampler import Field


@dataclass(frozen=True)
class Shifted(Controlled):
    """A velocity with the same value added everywhere."""

    shift: float

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """See `Controlled.velocity`."""
        return self.field(x, t) + self.shift


class Wind(Control):
    """Adds a velocity; it knows of no picture."""

    def __init__(self, strength: float, path: Path, condition: Condition) -> None:
        self.strength, self.path, self.condition = strength, path, condition

    def over(self, field: Field) -> Field:
        """See `Control.over`."""
        return Shifted(field, self.path, self.strength) if self.strength else field


class NeedsPicture(Wind):
    """A wind that blows where there are pictures."""

    def __init__(self, strength: float, path: Path, condition: Condition, picture: Tensor) -> None:
        super().__init__(strength, path, condition)
        self.picture = picture


class TakesPicture(Wind):
    """A wind that blows with pictures or without."""

    def __init__(self, strength: float, path: Path, condition: Condition, picture: Tensor | None = None) -> None:
        super().__init__(strength, path, condition)
        self.picture = picture


class NoControl:
    """Lacks the method `over`."""


class FarOut(RunningCost):
    """The cost of being away from 0, which grows with the time."""

    def __call__(self, x: Tensor, t: Tensor, _condition: Condition, /) -> Tensor:
        """See `RunningCost`."""
        return (1 + t) * x.square().flatten(1).sum(1)
