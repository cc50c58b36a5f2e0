"""What an engine says about the memory that it holds."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

from trainer.experiment.forecast.recording import Moment

Part = Literal["parameters", "frozen", "gradients", "optimizer", "average", "activations", "dispatch", "buffers"]
PARTS: tuple[Part, ...] = (
    "parameters",
    "frozen",
    "gradients",
    "optimizer",
    "average",
    "activations",
    "dispatch",
    "buffers",
)
"""What the memory of a rank is made of: the weights that a network computes with and learns, and those that are frozen;
gradients; AdamW's moments and float32 weights; the moving average; what a pass keeps and works with; tokens on the way
to their experts; and what engines gather, reduce and copy."""


class Growth(NamedTuple):
    """A part of the memory grows by so many bytes; below zero where they are given back."""

    part: Part
    size: int


class Micro(NamedTuple):
    """Place of a micro batch in an optimiser step; the backward pass of the last one averages the gradients."""

    first: bool
    last: bool


class EngineMemory(Protocol):
    """What an engine holds around the layers while a step is taken, on the rank that holds most."""

    def held(self) -> Mapping[Part, int]:
        """Bytes by part that are held between steps, the moving average left out."""
        ...

    def before(self, micro: Micro, /) -> Iterable[Growth]:
        """What happens before a forward pass."""
        ...

    def moment(self, moment: Moment, size: int, forward: bool, micro: Micro, /) -> Iterable[Growth]:
        """What happens at a moment of a pass.

        Args:
            moment: of the pass.
            size: bytes of the gradient that is there; it belongs to the engine from now on.
            forward: whether it is the forward pass.
            micro: micro batch of the pass.
        """
        ...

    def after(self, micro: Micro, /) -> Iterable[Growth]:
        """What happens at the end of a backward pass."""
        ...

    def update(self) -> Iterable[Growth]:
        """What happens in the optimiser's step; afterwards no more is held than :meth:`held` says."""
        ...

    def averaging(self) -> Iterable[Growth]:
        """What the update of the moving average needs besides the average."""
        ...

    def average(self) -> int:
        """Bytes of the moving average."""
        ...

    def snapshot(self) -> int:
        """Bytes that a checkpoint copies to the host: float32 weights, both moments and the average."""
        ...
