"""The section that names what a run learns."""

from typing import Annotated, Any, ClassVar, Literal

from netsim.foundation.own_class import KindOrClass, OwnClass
from netsim.foundation.settings import kind_of, sections_in
from trainer.config.task import policy
from trainer.config.task.policy import AdjointMatchingConfig, GRPOConfig
from trainer.config.task.protocol import Base, Calls, TaskSettings
from trainer.config.task.representation import ClusteringTaskConfig, ContrastiveTaskConfig, CorrespondenceTaskConfig
from trainer.config.task.trajectory_balance import TrajectoryBalanceTaskConfig


class FlowTaskConfig(TaskSettings):
    """The field of a flow, put together from the parts in the section ``flow``."""

    trains_flow: ClassVar[bool] = True

    kind: Literal["flow"] = "flow"
    base: Base = None
    """A run that this one continues; its folder will do. The sections model, moe, flow, data and sample are those of
    its newest checkpoint where they are not written here, and the network begins with its averaged weights, or adapts
    them where `model.adapters` names no other base. null: the run begins on its own."""


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

    @property
    def calls(self) -> tuple[Calls, ...] | None:
        """Calls as in :class:`TaskSettings`; None: the class does not declare them."""
        calls = self._declared("calls", None)
        if calls is None:
            return None
        if not isinstance(calls, tuple | list) or not all(isinstance(one, Calls) for one in calls):
            raise ValueError(
                f"task.class: calls of {self.kind} are {calls!r:.60}; give a tuple of trainer.config.task.Calls"
            )
        return tuple(calls)

    @property
    def cycle(self) -> int:
        return self._declared("cycle", 1)

    @property
    def passes(self) -> int:
        return self._declared("passes", 1)

    @property
    def replays(self) -> bool:
        return self._declared("replays", False)

    @property
    def weighs(self) -> bool:
        return self._declared("weighs", False)

    def _declared(self, name: str, default: Any) -> Any:
        return self.setting(name, getattr(self.imported(), name, default))


AnyTaskConfig = (
    FlowTaskConfig
    | policy.Config
    | NextTokenTaskConfig
    | ReconstructionTaskConfig
    | TrajectoryBalanceTaskConfig
    | CorrespondenceTaskConfig
    | ClusteringTaskConfig
    | ContrastiveTaskConfig
    | OwnTask
)
TaskConfig = Annotated[AnyTaskConfig, KindOrClass()]
FLOW_TASKS = tuple(str(kind_of(task)) for task in sections_in(AnyTaskConfig) if getattr(task, "trains_flow", False))
"""Kinds of task that train a flow, the default first."""

__all__ = ["Calls", "TaskSettings"]
"""What a class of a user's is written with; the package itself imports the kinds, too."""
