"""Where the figures of a run go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


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

    def close(self) -> None:
        """Lets go of files, ports and the terminal; safe to call twice."""
        ...
