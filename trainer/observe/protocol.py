"""Where the figures of a run go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ExpertUse:
    """What the experts took on all ranks since the process started.

    Attributes:
        layers: block of each MoE layer.
        tokens: choices of each expert that were kept, a row a layer.
        dropped: choices that no expert took.
    """

    layers: Sequence[int]
    tokens: Sequence[Sequence[int]]
    dropped: int


class Sink(Protocol):
    """Receives the figures of every logged step; rank 0 alone holds sinks.

    A name is a plain word (`loss`, `grad_norm`, `lr`, `held_out_loss`), or `time.` and a word for what differs between
    two equal runs (`time.step_s` in seconds, `time.samples_per_s`).
    """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the figures of one step.

        Args:
            step: optimiser steps done, counted from 1; rises from call to call.
            values: the figures by name.
        """
        ...

    def write_experts(self, use: ExpertUse) -> None:
        """Takes how much each expert was used; most sinks have no place for it."""

    def close(self) -> None:
        """Lets go of files, ports and the terminal; safe to call twice."""
        ...
