"""A sampler on its grid turned round: from given states back to noise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from moe.validation.section import Section
from trainer.flow.inversion.protocol import Inversion, Inverted
from trainer.flow.sampler import Field, Sampler


class ReverseConfig(Section):
    """The sampler of the run on its grid turned round; as many evaluations as one drawing."""

    kind: Literal["reverse"] = "reverse"


class Reverse(Inversion):
    """Follows the field from the data to the source.

    Euler's step back takes the velocity at the end of the step that it undoes, Euler's step forth that at its start.
    Back and forth is therefore wrong by the order of the sampler: for Euler's method, twice the steps leave half the
    error.

    Args:
        sampler: any that follows a velocity without noise of its own, such as the run's Euler, Heun or segmented one.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """See `Inversion.invert`."""
        back = self.sampler.sample(field, states, times.flip(0), keys=keys)
        return Inverted(back.final, back.calls["network"])
