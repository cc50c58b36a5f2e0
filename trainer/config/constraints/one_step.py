"""What runs cannot be given that learn a map of one step, or whose map of one step is compared with the best one."""

from trainer.config.model import SegmentNetworkConfig
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.data import PairsConfig
from trainer.flow.objective import MongeGapConfig, MongeMapConfig, RegressionConfig
from trainer.flow.sampler import EulerConfig, OwnSampler
from trainer.flow.time import GridConfig, UniformConfig

ONLY_STEP = (0.0, 1.0)
"""Times of a sampler of one step that cannot be given more steps."""


def check_one_step(config: RunConfig, micro_batch: int) -> None:
    """Refuses what leaves the map of one step without meaning, and settings that it makes no use of.

    Args:
        config: the run.
        micro_batch: its examples on one rank.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None:
        return
    match config.flow.objective:
        case MongeMapConfig():
            _check_map(config, "flow.objective.kind: monge_map", micro_batch)
            _check_only_step(config)
        case RegressionConfig(monge_gap=MongeGapConfig()):
            _check_map(config, "flow.objective.monge_gap", micro_batch)


def _check_map(config: RunConfig, field: str, micro_batch: int) -> None:
    assert config.flow is not None
    if config.flow.context is not None:
        raise ValueError(
            f"{field}: it matches the examples of a micro batch with each other, and flow.context "
            f"{config.flow.context.kind} gives each of them a map of its own; remove one of the two"
        )
    if isinstance(config.model, SegmentNetworkConfig):
        raise ValueError(
            f"{field}: one step from t = 0 to 1 crosses the segments of model.kind {config.model.kind}; use mlp or dit"
        )
    if isinstance(config.data, PairsConfig) and config.data.segments is not None:
        raise ValueError(
            f"{field}: the pairs in data.path are parts of paths ({config.data.segments} segments), and the map begins "
            "at t = 0; use pairs of whole paths"
        )
    if micro_batch < 2:
        raise ValueError(
            f"{field}: in a micro batch of {micro_batch} there is nothing to compare a map with; use a larger "
            "optim.micro_batch, as a rule 128 to 512"
        )


def _check_only_step(config: RunConfig) -> None:
    assert config.flow is not None
    assert isinstance(config.sample, ImageSample | PointSample)
    times, chosen = config.flow.time, config.sample.sampler
    if times not in (UniformConfig(), GridConfig(steps=1)):
        raise ValueError(
            f"flow.time.kind: {getattr(times, 'kind', 'a class')} has no effect, since flow.objective.kind monge_map "
            "asks the network at t = 0 alone; remove it"
        )
    if isinstance(chosen, OwnSampler) or (isinstance(chosen, EulerConfig) and chosen.times == ONLY_STEP):
        return
    steps = getattr(chosen, "steps", None)
    used = chosen.kind if steps is None else f"{chosen.kind} with {steps} step{'s' * (steps != 1)}"
    raise ValueError(
        f"sample.sampler: {used} can ask the network after t = 0, where flow.objective.kind monge_map leaves it "
        "untrained; use {kind: euler, times: [0, 1]}"
    )
