"""Controls: what turns the field that a sampler follows into another one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.path import Path
from trainer.flow.sampler.protocol import Field
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import convert


class Control(Protocol):
    """Changes a field.

    A control is a function of state and time, not of the number of a step, so that it means the same under every
    sampler and on every grid. At strength 0 it returns the field that it was given.
    """

    def over(self, field: Field) -> Field:
        """Returns the changed field.

        Args:
            field: what a sampler would follow without this control.
        """
        ...


@dataclass(frozen=True)
class ControlInputs:
    """What a control may refer to besides the field: the examples that are drawn, B of them, in the rows of the states.

    Attributes:
        path: the path of the flow.
        condition: of the examples, on their device.
        network: the network of the flow without guidance, which a cost may ask for more than a prediction.
        picture: [B, *D] the states of the pictures that are edited or restored; None: there are none.
        mask: where a picture is held on to, 0 to 1, of a shape that broadcasts to the states, such as [1, 1, H, W]; 0
            leaves a value to the flow. None: everywhere.
    """

    path: Path
    condition: Condition
    network: Callable[..., Any]
    picture: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Controlled(Field):
    """A field made of another one by a change of its velocity; all other quantities follow from that velocity.

    Attributes:
        field: the other field.
        path: of the states.
    """

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
    """Puts controls over a field: the first changes the field, each of the others what those before it returned."""
    for control in controls:
        field = control.over(field)
    return field
