"""How a sample is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.target import Quantity

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""States [B, *D] and times [B] to velocities [B, *D], with condition and guidance already bound."""


class Field(Protocol):
    """What a network knows at a state, with condition and guidance already bound."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Returns the velocity [B, *D] at states [B, *D] and times [B]."""
        ...

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """Returns several quantities [B, *D] at states [B, *D] and times [B], from one evaluation of the network."""
        ...

    def within(self, segment: int, /) -> Field:  # noqa: ARG002
        """Returns the field for times of one segment, both of its edges included.

        Which segment an edge belongs to cannot be read off a time, so whoever steps through segments says it. A field
        that is one function of all times is the same in each of them.

        Args:
            segment: its number from the source on, 0 to the number of segments - 1.
        """
        return self


@dataclass(frozen=True)
class Trajectory:
    """The states of a batch along the time grid.

    Attributes:
        x: [T, B, *D] the state at every time of the grid; `x[0]` is the start, `final` the end.
        times: [T] the grid.
        evaluations: how often the field was called.
    """

    x: Tensor
    times: Tensor
    evaluations: int

    @property
    def final(self) -> Tensor:
        """The states [B, *D] at the last time."""
        return self.x[-1]


class Sampler(Protocol):
    """Follows a field from the first time of a grid to the last."""

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """Integrates the field. Gradients flow through; wrap the call in `torch.no_grad()` where none are wanted.

        Args:
            field: what is followed; a solver of dx/dt = v needs no more than the velocity.
            x_init: [B, *D] states at `times[0]`.
            times: [T] strictly increasing (towards the data) or strictly decreasing, T >= 2, float32 or float64.
            keys: int64 [B], of which all that a random sampler draws for each example is a function, whatever else is
                in its batch; deterministic ones ignore them.

        Returns:
            The trajectory, in the type of `x_init`.

        Raises:
            ValueError: if `times` is no such grid, or the sampler is random and has no keys.
        """
        ...


def check_times(times: Tensor) -> None:
    """Refuses a time grid that no sampler can follow.

    Args:
        times: [T] the grid.

    Raises:
        ValueError: if it has fewer than two times, or is not strictly monotonic and finite.
    """
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times: shape {tuple(times.shape)} is no grid; give at least two times in one dimension")
    steps = times.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())) or not bool(times.isfinite().all()):
        raise ValueError(f"times: {times.tolist()} does not run one way; sort them and remove repeats")
