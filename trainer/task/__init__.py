"""What a step learns: a file for each task, and `build`. The protocol is in :mod:`trainer.training.task`."""

from collections.abc import Callable
from typing import Any

from netsim.foundation.own_class import build_own
from trainer.config.run import RunConfig
from trainer.config.task import (
    AdjointMatchingConfig,
    FlowTaskConfig,
    GRPOConfig,
    NextTokenTaskConfig,
    OwnTask,
    ReconstructionTaskConfig,
    TrajectoryBalanceTaskConfig,
)
from trainer.task.flow import DrawnPoints, FlowTask
from trainer.task.next_token import NextTokenTask
from trainer.task.policy.adjoint_matching import AdjointMatching
from trainer.task.policy.grpo import GRPOTask
from trainer.task.reconstruction import ReconstructionTask
from trainer.task.trajectory_balance import TrajectoryBalanceTask
from trainer.training.task import Drawn, Networks, Task

TASKS: dict[type[Any], Callable[[RunConfig], Task[Any]]] = {
    FlowTaskConfig: FlowTask,
    NextTokenTaskConfig: NextTokenTask,
    ReconstructionTaskConfig: ReconstructionTask,
    TrajectoryBalanceTaskConfig: TrajectoryBalanceTask,
    GRPOConfig: GRPOTask,
    AdjointMatchingConfig: AdjointMatching,
}
"""The task of each class of settings."""


def build(config: RunConfig) -> Task[Any]:
    """The task that the section ``task`` names."""
    if isinstance(config.task, OwnTask):
        return build_own(config.task, run=config)
    return TASKS[type(config.task)](config)


__all__ = [
    "Drawn",
    "DrawnPoints",
    "FlowTask",
    "GRPOTask",
    "Networks",
    "NextTokenTask",
    "ReconstructionTask",
    "Task",
    "TrajectoryBalanceTask",
    "build",
]
