"""Euler's method on the grids of times of a file that the steps verb wrote."""

from __future__ import annotations

from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow.sampler import AnyConfig, EulerConfig, SegmentedConfig
from trainer.flow.sampler.grid import StepsFile


def segments_of(own: AnyConfig) -> int:
    """Segments of time that a sampler steps through; 1: the whole time."""
    return own.segments if isinstance(own, SegmentedConfig) else 1


def euler_of(own: AnyConfig, euler: EulerConfig) -> EulerConfig | SegmentedConfig:
    """Euler's method as a run can be followed by it: segment by segment where its own sampler goes so.

    Args:
        own: the run's sampler.
        euler: the method; of a segmented sampler, its steps are those of a segment.
    """
    return own.model_copy(update={"within": euler}) if isinstance(own, SegmentedConfig) else euler


def sampler_of(config: RunConfig, path: Path, evaluations: int | None = None, *, guidance: float) -> AnyConfig:
    """Euler's method on a grid of a file, segment by segment where the run's own sampler goes so.

    Args:
        config: the run.
        path: the file.
        evaluations: of the field; None: the most that the file has a grid for.
        guidance: scale of classifier-free guidance that is drawn with.

    Raises:
        Refusal: the file is missing or malformed, has no such grid, or was searched for another guidance or other
            segments.
        ValueError: the run cannot be followed by Euler's method.
    """
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
    """Refuses grids that were searched for other weights.

    Args:
        path: file of the grids.
        weights: SHA-256 of the averaged weights that draw.

    Raises:
        Refusal: the file is malformed, or says that it was made of others; one that does not say so passes.
    """
    made_by = StepsFile.read(path).made_by
    found = made_by.get("weights", weights)
    if found != weights:
        problem = f"names the weights {str(found)[:12]} of {made_by.get('run', 'another run')}, and {weights[:12]} draw"
        raise Refusal(path, "made_by", problem, "search for these with python -m trainer steps")
