"""The tasks of examples, which routed adapters read: those of their sources, in turn, or the one that is asked for."""

from dataclasses import replace

import torch
from torch import Tensor

from trainer.config.derived import task_names
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import Condition


def tasks_of(config: RunConfig, batch: Batch) -> Tensor | None:
    """The tasks int64 [B] of examples that were read; None: the run reads none. Refuses data without tasks."""
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
    """Tasks int64 [num] of examples that are drawn, `together` with the same one; None: the run reads none."""
    names = task_names(config)
    return torch.arange(num) // together % len(names) if names else None


def with_tasks(config: RunConfig, condition: Condition, examples: Tensor) -> Condition:
    """The condition with a task of each example: its own, or by its number; unchanged if the run reads no task."""
    names = task_names(config)
    return condition if condition.task is not None or not names else replace(condition, task=examples % len(names))


def task_number(config: RunConfig, word: str) -> int:
    """The number of a task by its name or number; a name goes before a number."""
    names = task_names(config)
    if not names:
        raise ValueError(f"--task: {word}, and the run has no routed adapters, which tell tasks apart; leave it out")
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    raise ValueError(f"--task: there is no task {word}; give one of {', '.join(names)}")
