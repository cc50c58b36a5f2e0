"""The controls of a run's samples: others in place of its own, and those that its network cannot bear."""

from collections.abc import Sequence

from trainer.config.constraints.cost import check_cost
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow.control import AnyConfig, CostGradientConfig


def with_controls(config: RunConfig, controls: Sequence[AnyConfig]) -> RunConfig:
    """A run whose samples are drawn under other controls than its own.

    Args:
        config: a run that follows a flow.
        controls: the first one changes the field first; empty: none.
    """
    sample = config.sample.model_copy(update={"controls": tuple(controls)})
    return config.model_copy(update={"sample": sample})


def check_controls(config: RunConfig) -> None:
    """Refuses controls whose costs ask of the network what it does not tell.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if not isinstance(config.sample, ImageSample | PointSample):
        return
    for number, one in enumerate(config.sample.controls):
        if isinstance(one, CostGradientConfig):
            check_cost(config, one.cost, f"sample.controls.{number}.cost")
