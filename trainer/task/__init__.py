"""The tasks, which define what a step learns, and `build`. Their protocol is in :mod:`trainer.training.task`."""

from typing import Any

from netsim.foundation.own_class import build_own
from trainer.config.run import RunConfig
from trainer.config.task import OwnTask
from trainer.task import clustering, contrastive, correspondence, flow, supervised, trajectory_balance
from trainer.task.flow import FlowTask
from trainer.task.policy import adjoint_matching, grpo
from trainer.task.supervised import NextTokenTask, ReconstructionTask
from trainer.task.trajectory_balance import TrajectoryBalanceTask
from trainer.training.task import Builders, Drawn, Networks, Task

TASKS: Builders = (
    flow.TASKS
    | supervised.TASKS
    | trajectory_balance.TASKS
    | grpo.TASKS
    | adjoint_matching.TASKS
    | correspondence.TASKS
    | clustering.TASKS
    | contrastive.TASKS
)
"""The tasks by their settings, as each file lists them."""


def build(config: RunConfig) -> Task[Any]:
    """The task that the section ``task`` names."""
    if isinstance(config.task, OwnTask):
        return build_own(config.task, run=config)
    return TASKS[type(config.task)](config)


__all__ = ["Drawn", "FlowTask", "Networks", "Task"]
"""Names that a user's class needs; the package itself also imports the kinds."""
