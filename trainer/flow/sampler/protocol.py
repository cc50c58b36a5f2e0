"""Fields, and the samplers that follow them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.target import Quantity

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""From states [B, *D] and times [B] to velocities [B, *D], with condition and guidance already bound."""


class Field(Protocol):
    """The quantities that a network predicts at a state, with condition and guidance already bound."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Returns the velocity [B, *D] at states [B, *D] and times [B]."""
        ...

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """Returns several quantities [B, *D] at states [B, *D] and times [B], from one evaluation of the network."""
        ...

    def within(self, segment: int, /) -> Field:  # noqa: ARG002
        """Returns the field of one segment of time, which includes both edges of the segment.

        A time at an edge belongs to two segments, so the sampler states which one it is in. A field that does not
        depend on segments returns itself.

        Args:
            segment: number of the segment, counted from 0 at the source.
        """
        return self


@dataclass(frozen=True)
class Trajectory:
    """The states of a batch along the time grid.

    Attributes:
        x: [T, B, *D] the state at every time of the grid; `x[0]` is the first, `final` the last.
        times: [T] the grid.
        calls: how often each part of the model was called for the batch: ``network``; ``head``, where a model has a
            head that is called by itself.
    """

    x: Tensor
    times: Tensor
    calls: Mapping[str, int]

    @property
    def final(self) -> Tensor:
        """The states [B, *D] at the last time."""
        return self.x[-1]


class Sampler(Protocol):
    """Follows a field from the first time of a grid to the last."""

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """Integrates the field. The result has gradients, unless the call is inside `torch.no_grad()`.

        Args:
            field: the field; a solver of dx/dt = v evaluates only its velocity.
            x_init: [B, *D] states at `times[0]`.
            times: [T] strictly increasing (towards the data) or strictly decreasing, T >= 2, float32 or float64.
            keys: int64 [B] keys of the examples. The draws of a random sampler for an example are a function of its key
                and of no other example; deterministic samplers ignore the keys.

        Returns:
            The trajectory, in the type of `x_init`.

        Raises:
            ValueError: if `times` is not such a grid, or the sampler is random and `keys` is None.
        """
        ...


def check_times(times: Tensor) -> None:
    """Refuses, by a ValueError, a grid of fewer than two times, or one that is not strictly monotonic and finite."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(
            f"times: shape {tuple(times.shape)} is not that of a grid; give at least two times in one dimension"
        )
    steps = times.diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())) or not bool(times.isfinite().all()):
        raise ValueError(f"times: {times.tolist()} is not strictly monotonic; sort the times and remove repeats")
