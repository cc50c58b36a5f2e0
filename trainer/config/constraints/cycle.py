"""Steps that share what was collected: checkpoints and the last step lie between cycles."""

from netsim.foundation.own_class import OwnClass
from trainer.config.run import RunConfig


def cycle_of(config: RunConfig) -> int:
    """Optimiser steps that share what the task of a run collects.

    Args:
        config: the run.
    """
    if not isinstance(config.task, OwnClass):
        return config.task.cycle
    return config.task.setting("cycle", getattr(config.task.imported(), "cycle", 1))


def check_cycle(config: RunConfig, cycle: int | None = None) -> None:
    """Refuses a checkpoint, or a last step, within a cycle.

    Args:
        config: the run.
        cycle: steps of a cycle; None: those that :func:`cycle_of` reads from the configuration.

    Raises:
        ValueError: names the setting, its value and a multiple of the cycle.
    """
    cycle = cycle_of(config) if cycle is None else cycle
    for name, steps in (("optim.steps", config.optim.steps), ("checkpoint.every", config.checkpoint.every)):
        if steps is not None and steps % cycle:
            raise ValueError(
                f"{name}: {steps} is not a multiple of the {cycle} steps that share what the task collects; use "
                f"{-(-steps // cycle) * cycle}"
            )
