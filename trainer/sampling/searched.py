"""Euler's method on the grids of times of a file that the steps verb wrote."""

from __future__ import annotations

from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample, PointSample
from trainer.flow.sampler import AnyConfig, EulerConfig, SegmentedConfig
from trainer.flow.sampler.grid import StepsFile


def segments_of(own: AnyConfig) -> int:
    """Segments of time that a sampler steps through; 1: the whole time."""
    return own.segments if isinstance(own, SegmentedConfig) else 1


def euler_of(own: AnyConfig, euler: EulerConfig) -> EulerConfig | SegmentedConfig:
    """Euler's method for a run: by segments, with these steps in each, where its own sampler is segmented."""
    return own.model_copy(update={"within": euler}) if isinstance(own, SegmentedConfig) else euler


def sampler_of(config: RunConfig, path: Path, evaluations: int | None = None, *, guidance: float) -> AnyConfig:
    """Euler's method on a grid of a file, by segments where the run's own sampler is; None: the most evaluations."""
    assert isinstance(config.sample, ImageSample | PointSample)
    own = config.sample.sampler
    segments = segments_of(own)
    number = max(StepsFile.read(path).grids) if evaluations is None else evaluations
    if number < 1 or number % segments:
        least = max(1, number // segments) * segments
        unfit = "is below 1" if number < 1 else f"does not divide among {segments} segments"
        raise ValueError(f"--evaluations: {number} {unfit}; use {least}")
    chosen = euler_of(own, EulerConfig(steps=number // segments, times=path))
    refuse(of_drawn(config, chosen, guidance))
    return chosen


def check_made_of(path: Path, weights: str) -> None:
    """Refuses grids that were searched for other weights (SHA-256 of the averaged ones); a file without a digest
    passes.
    """
    made_by = StepsFile.read(path).made_by
    found = made_by.get("weights", weights)
    if found != weights:
        problem = f"names the weights {str(found)[:12]} of {made_by.get('run', 'another run')}, and {weights[:12]} draw"
        raise Refusal(path, "made_by", problem, "search for these with python -m trainer steps")
