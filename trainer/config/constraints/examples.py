"""Examples that a network cannot take."""

from trainer.config.run import RunConfig


def check_examples(config: RunConfig) -> None:
    """Refuses examples of a shape or length that the model does not take.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    config.model.check_states(config.state_shape)
