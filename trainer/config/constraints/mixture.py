"""What goes with one data set alone, and not with a mixture of several."""

from trainer.config.run import RunConfig
from trainer.data import MixtureConfig


def check_mixture(config: RunConfig) -> None:
    """Refuses parts of a run that are told example by example of one data set.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    flow = config.flow
    if flow is None:
        return
    if isinstance(config.data, MixtureConfig) and flow.captions is not None:
        raise ValueError(
            f"flow.captions: {flow.captions.path} has a caption for each example of one data set, and data.kind "
            "mixture has several; leave it out, or learn from one"
        )
    if isinstance(flow.source, MixtureConfig):
        raise ValueError("flow.source.kind: mixture is for data; give one data set to start at")
