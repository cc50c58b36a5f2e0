"""What networks whose blocks belong to segments of time cannot be given."""

import math
from itertools import pairwise

from trainer.config.model import BlockwiseConfig, SegmentNetworkConfig
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.data import PairsConfig
from trainer.flow.objective import AlignedConfig, FeatureResidualConfig
from trainer.flow.sampler import OwnSampler, SegmentedConfig
from trainer.flow.sampler.steps_file import SAME_TIME
from trainer.flow.time import GridConfig, StratifiedConfig


def check_blockwise(config: RunConfig, micro_batch: int) -> None:
    """Refuses what leaves blocks untrained, steps across the edges of segments, or is not built for such networks.

    Args:
        config: the run.
        micro_batch: its examples on one rank.

    Raises:
        ValueError: names field, value and remedy.
    """
    _check_objective(config)
    if not isinstance(config.model, SegmentNetworkConfig):
        return
    assert config.flow is not None
    segments = config.model.segments
    if micro_batch < segments:
        raise ValueError(
            f"model.segments: {segments} segments exceed the micro batch of {micro_batch}, so that in each step the "
            "blocks of some learn nothing; use fewer segments, or a larger optim.micro_batch"
        )
    _check_nodes(config, segments)
    match config.flow.time:
        case StratifiedConfig(segments=intervals) if intervals % segments:
            raise ValueError(
                f"flow.time.segments: {intervals} are shared out among model.segments {segments} unevenly; "
                f"use {segments}"
            )
        case GridConfig(steps=steps) if len(_trained(config, segments, steps)) < segments:
            raise ValueError(
                f"flow.time.steps: {steps} times do not reach each of model.segments {segments}; "
                f"use {segments} or a multiple"
            )
    if isinstance(config.sample, ImageSample | PointSample):
        chosen = config.sample.sampler
        if not isinstance(chosen, OwnSampler) and getattr(chosen, "segments", None) != segments:
            used = f"segmented, segments {chosen.segments}" if isinstance(chosen, SegmentedConfig) else chosen.kind
            raise ValueError(
                f"sample.sampler.kind: {used} steps across the edges of model.segments {segments}, where the field "
                f"may jump; use sample.sampler={{kind: segmented, segments: {segments}, within: {{kind: euler, "
                "steps: 8}}"
            )


def _trained(config: RunConfig, segments: int, steps: int) -> set[int]:
    """The segments that hold a time of a grid, which is divided anew between the edges of the pairs."""
    edges = config.data.edges if isinstance(config.data, PairsConfig) else (0.0, 1.0)
    times = [start + (end - start) * step / steps for start, end in pairwise(edges) for step in range(steps)]
    return {math.floor((time + SAME_TIME) * segments) for time in times}


def _check_nodes(config: RunConfig, segments: int) -> None:
    """Refuses pairs whose chords cross the edges of segments."""
    if not isinstance(config.data, PairsConfig) or config.data.nodes is None:
        return
    for number in range(1, segments):
        if min(abs(node - number / segments) for node in config.data.nodes) > SAME_TIME:
            raise ValueError(
                f"model.segments: {segments} segments meet at {number / segments:.4g}, which is not one of the nodes "
                f"of the pairs in data.path ({', '.join(f'{node:.4g}' for node in config.data.nodes)}), and the field "
                "may jump there; draw pairs at nodes that were searched with this teacher's own sampler"
            )


def _check_objective(config: RunConfig) -> None:
    """Refuses objectives that ask for features that the network does not have, and parts that nothing trains."""
    chosen = None if config.flow is None else config.flow.objective
    model = config.model if isinstance(config.model, BlockwiseConfig) else None
    aligned, residual = isinstance(chosen, AlignedConfig), isinstance(chosen, FeatureResidualConfig)
    if (aligned or residual) and model is None:
        assert chosen is not None
        raise ValueError(
            f"flow.objective.kind: {chosen.kind} needs the features of a trunk, which a {config.model.kind} model "
            "lacks; use model.kind=blockwise, or regression"
        )
    if model is None:
        return
    assert config.flow is not None
    if aligned and model.teacher_features is None:
        raise ValueError(
            "model.teacher_features: null leaves nothing that flow.objective.kind aligned could align; use the number "
            "of the teacher's features"
        )
    if aligned and (config.flow.latent is not None or config.flow.data_scale != 1):
        raise ValueError(
            "flow.objective.kind: aligned shows a teacher the data as the network knows them, and here they are "
            "latents or scaled; use images, and flow.data_scale 1"
        )
    if model.teacher_features is not None and not (aligned or residual):
        raise ValueError(
            f"model.teacher_features: {model.teacher_features} belong to a projection that no objective trains; use "
            "null, or flow.objective.kind aligned"
        )
    if residual and not (model.residual_layers and model.init_from):
        raise ValueError(
            "flow.objective.kind: feature_residual trains the residual network of a trunk that is finished; use "
            "model.residual_layers of 1 or more, and model.init_from with model.init_new=[residual]"
        )
    if model.residual_layers and not residual:
        raise ValueError(
            f"model.residual_layers: {model.residual_layers} are trained by flow.objective.kind feature_residual "
            "alone, when all else is; use 0 here"
        )
    if residual and model.dropout:
        raise ValueError(
            f"model.dropout: {model.dropout} would change the features that flow.objective.kind feature_residual has "
            "to approximate; use 0 here"
        )
    if residual and config.optim.weight_decay:
        raise ValueError(
            f"optim.weight_decay: {config.optim.weight_decay} would shrink what flow.objective.kind feature_residual "
            "leaves as it is; use 0"
        )
