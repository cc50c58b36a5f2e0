"""The protocol of sinks, which receive the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MACHINE = ("time", "memory")
"""Groups of figures that depend on the clock or the machine, and so differ between two equal runs."""


def differs_between_equal_runs(name: str) -> bool:
    """Whether a figure depends on the clock or the machine rather than on what was learned."""
    group, dot, _ = name.partition(".")
    return bool(dot) and group in MACHINE


@dataclass(frozen=True)
class ExpertUse:
    """Router choices on all ranks since the process started, by MoE layer and expert, and the number `dropped`."""

    layers: Sequence[int]
    tokens: Sequence[Sequence[int]]
    dropped: int


class Sink(Protocol):
    """Receives the figures of a run; rank 0 alone holds sinks.

    A name is a plain word (`loss`, `grad_norm`, `lr`, `held_out_loss`; `skipped_steps` and `bad_samples`, counted
    since the run began; what a loss is made of, as `LossTerms.terms` names it; where pairs have weights,
    `effective_share` and, as `Tilt` in trainer/training/weighting.py says, `data_mean_tilt`, `data_variance_tilt`,
    `source_mean_tilt`, `source_variance_tilt`), or `time.` or `memory.` and a word
    for what differs between two equal runs: `time.step_s`, `time.data_wait_s` (seconds a step), `time.samples_per_s`,
    `time.tokens_per_s` (of text), `time.model_flops_per_s`, `time.mfu` (share of the devices' peak),
    `time.step_spread` (own work of the slowest rank over the mean), `memory.peak_bytes` (largest of any rank).
    """

    def stepped(self, step: int, seconds: float) -> None:
        """Notes every step, logged or not; most sinks do nothing.

        Args:
            step: optimiser steps done.
            seconds: how long the last one took.
        """

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the figures of one logged step.

        Args:
            step: optimiser steps done, counted from 1; rises from call to call.
            values: the figures by name.
        """
        ...

    def write_experts(self, use: ExpertUse) -> None:
        """Takes how much each expert was used; most sinks do nothing."""

    def close(self) -> None:
        """Closes files, ports and the terminal; safe to call twice."""
        ...
