"""The tasks of examples, which routed adapters read: those of their sources, in turn, or the one that is asked for."""

from dataclasses import replace

import torch
from torch import Tensor

from trainer.config.derived import task_names
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition


def tasks_of(config: RunConfig, batch: Batch) -> Tensor | None:
    """The tasks of examples that were read, int64 [B] beside them; None: the run reads none.

    Args:
        config: the run.
        batch: the examples.

    Raises:
        ValueError: the run has several tasks, and its data do not say of which an example is.
    """
    names = task_names(config)
    if not names:
        return None
    if batch.sources is not None:
        return batch.sources
    if len(names) == 1:
        return torch.zeros_like(batch.ids, device=batch.x_1.device)
    raise ValueError(
        f"data: its examples have no sources, of which the adapters tell {len(names)} apart; give each batch its "
        "`sources`, or set model.adapters.tasks=1"
    )


def tasks_in_turn(config: RunConfig, num: int, together: int = 1) -> Tensor | None:
    """Tasks of examples that are drawn, int64 [num]; None: the run reads none.

    Args:
        config: the run.
        num: examples.
        together: examples one after the other that have the same task.
    """
    names = task_names(config)
    return torch.arange(num) // together % len(names) if names else None


def with_tasks(config: RunConfig, condition: Condition, examples: Tensor) -> Condition:
    """A condition in which the examples have a task each: their own, or by their numbers where they have none.

    Args:
        config: the run; one that reads no task leaves the condition as it is.
        condition: of the examples.
        examples: int64 [B] their numbers.
    """
    names = task_names(config)
    return condition if condition.task is not None or not names else replace(condition, task=examples % len(names))


def task_number(config: RunConfig, word: str) -> int:
    """The number of the task that somebody asks for.

    Args:
        config: the run.
        word: its name or its number; a name goes before a number.

    Raises:
        ValueError: the run has no such task.
    """
    names = task_names(config)
    if not names:
        raise ValueError(f"--task: {word}, and the run has no routed adapters, which tell tasks apart; leave it out")
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise ValueError(f"--task: there is no task {word}; give one of {', '.join(names)}")
