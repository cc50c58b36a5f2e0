"""The section that names what a run learns."""

from typing import Annotated, ClassVar, Literal

from moe.validation.own_class import KindOrClass, OwnClass
from trainer.config.task.adjoint_matching import AdjointMatchingConfig
from trainer.config.task.grpo import GRPOConfig
from trainer.config.task.protocol import Calls, TaskSettings
from trainer.config.task.trajectory_balance import TrajectoryBalanceTaskConfig


class FlowTaskConfig(TaskSettings):
    """The field of a flow, put together from the parts in the section ``flow``."""

    kind: Literal["flow"] = "flow"


class NextTokenTaskConfig(TaskSettings):
    """The next token of a text."""

    kind: Literal["next_token"] = "next_token"


class ReconstructionTaskConfig(TaskSettings):
    """Images from their latents."""

    kind: Literal["reconstruction"] = "reconstruction"


class OwnTask(OwnClass, frozen=True):
    """A class that extends `trainer.task.Task`; its constructor may take ``run``, the configuration of the run."""

    protocol: ClassVar[str] = "trainer.task.Task"
    passed: ClassVar[tuple[str, ...]] = ("run",)


AnyTaskConfig = (
    FlowTaskConfig
    | GRPOConfig
    | AdjointMatchingConfig
    | NextTokenTaskConfig
    | ReconstructionTaskConfig
    | TrajectoryBalanceTaskConfig
    | OwnTask
)
TaskConfig = Annotated[AnyTaskConfig, KindOrClass()]

__all__ = [
    "AdjointMatchingConfig",
    "AnyTaskConfig",
    "Calls",
    "FlowTaskConfig",
    "GRPOConfig",
    "NextTokenTaskConfig",
    "OwnTask",
    "ReconstructionTaskConfig",
    "TaskConfig",
    "TaskSettings",
    "TrajectoryBalanceTaskConfig",
]
