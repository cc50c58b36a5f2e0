"""A profile of steps that do not happen."""

from trainer.config.run import RunConfig


def check_profile(config: RunConfig) -> None:
    """Refuses a profile of steps after the last.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    profile = config.observe.profile
    if profile is not None and profile.steps[1] > config.optim.steps:
        raise ValueError(
            f"observe.profile.steps: {list(profile.steps)} ends after the last step, optim.steps {config.optim.steps}; "
            f"end at {config.optim.steps} at most"
        )
