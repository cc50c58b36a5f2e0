"""Controls of samples that a run's network cannot bear."""

from trainer.config.constraints.cost import check_cost
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.flow.control.cost_gradient import CostGradientConfig


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
