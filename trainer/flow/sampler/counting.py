"""The calls of the network, counted where a field is evaluated."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from trainer.flow.sampler.protocol import Field, VelocityField
from trainer.flow.target import Quantity


class CountedField(Field):
    """A field that counts its evaluations; several quantities of one call are one evaluation.

    A sampler of dx/dt = v needs no more of the field than the velocity.
    """

    def __init__(self, field: VelocityField) -> None:
        self._field = field
        self._evaluations = 0

    @property
    def calls(self) -> dict[str, int]:
        """Calls by part, as `Trajectory.calls`: an evaluation of a field is one call of its network."""
        return {"network": self._evaluations}

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        self._evaluations += 1
        return self._field(x, t)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        self._evaluations += 1
        return cast(Field, self._field).estimate(x, t, *quantities)
