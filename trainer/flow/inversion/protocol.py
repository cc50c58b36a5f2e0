"""Inversion: the noise that a flow would lead to given images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.sampler.protocol import Field

Drawn = Callable[[Tensor], Tensor]
"""From noise [B, *D] to the states [B, *D] that a flow leads it to."""


@dataclass(frozen=True)
class Inverted:
    """Noise that was found for given states.

    Attributes:
        noise: [B, *D] at time 0.
        calls: how often the field was evaluated for the batch.
        errors: [I, B] mean squared distance of what each iterate leads to, the first iterate first; None where the
            iterates are not drawn.
        bound: [B] step size from which on the iterates of an example go apart, as far as they have shown it; infinite
            where they have not, None where there are no steps of that kind.
    """

    noise: Tensor
    calls: int
    errors: Tensor | None = None
    bound: Tensor | None = None


class Inversion(Protocol):
    """Finds the noise that a flow leads to given states."""

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:
        """Finds the noise.

        Args:
            field: of the flow, under the conditions of the given states.
            states: [B, *D] at time 1.
            times: [T] the grid from 0 to 1 that the noise will be drawn on.
            keys: int64 [B] keys of whatever is drawn at random, one for each example.
        """
        ...
