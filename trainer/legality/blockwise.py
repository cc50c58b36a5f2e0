"""What networks whose blocks belong to segments of time cannot be given."""

from trainer.config import ImageSample, PointSample, RunConfig
from trainer.flow.sampler import SegmentedConfig
from trainer.flow.time import GridConfig, StratifiedConfig
from trainer.model.blockwise_config import BlockwiseConfig, BlockwiseMLPConfig


def check_blockwise(config: RunConfig, micro_batch: int) -> None:
    """Refuses what leaves blocks untrained, steps across the edges of segments, or is not built for such networks.

    Args:
        config: the run.
        micro_batch: its examples on one rank.

    Raises:
        ValueError: names field, value and remedy.
    """
    if not isinstance(config.model, BlockwiseConfig | BlockwiseMLPConfig):
        return
    assert config.flow is not None
    segments = config.model.segments
    if micro_batch < segments:
        raise ValueError(
            f"model.segments: {segments} segments exceed the micro batch of {micro_batch}, so that in each step the "
            "blocks of some learn nothing; use fewer segments, or a larger optim.micro_batch"
        )
    match config.flow.time:
        case StratifiedConfig(segments=found) if found % segments:
            raise ValueError(
                f"flow.time.segments: {found} are shared out among model.segments {segments} unevenly; use {segments}"
            )
        case GridConfig(steps=steps) if steps < segments:
            raise ValueError(
                f"flow.time.steps: {steps} times do not reach each of model.segments {segments}; "
                f"use {segments} or a multiple"
            )
    if isinstance(config.sample, ImageSample | PointSample):
        chosen = config.sample.sampler
        if not isinstance(chosen, SegmentedConfig) or chosen.segments != segments:
            found = f"segmented, segments {chosen.segments}" if isinstance(chosen, SegmentedConfig) else chosen.kind
            raise ValueError(
                f"sample.sampler.kind: {found} steps across the edges of model.segments {segments}, where the field "
                f"may jump; use sample.sampler={{kind: segmented, segments: {segments}, within: {{kind: euler, "
                "steps: 8}}"
            )
