"""What adapters cannot be combined with."""

from trainer.config.constraints.routed_adapters import check_routed
from trainer.config.run import RunConfig


def of_base(config: RunConfig) -> RunConfig:
    """The run with the network that its adapters stand on; one without adapters as it is."""
    if config.model.adapters is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"adapters": None})})


def check_adapters(config: RunConfig) -> None:
    """Refuses adapters where a part of the run cannot take them.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    adapters = config.model.adapters
    if adapters is None:
        return
    if config.moe is not None:
        raise ValueError(
            "moe: experts are not adapted, and adapters freeze all else; remove the section, or model.adapters"
        )
    if config.parallel.tensor > 1:
        raise ValueError(
            f"parallel.tensor: {config.parallel.tensor} ranks cannot share frozen matrices with adapters; use 1"
        )
    check_routed(config)
