"""Settings of fine-tuning by adjoint matching."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from trainer.config.task.protocol import Base, Calls, TaskSettings
from trainer.flow import cost as costs
from trainer.flow import reward as rewards


class AdjointMatchingConfig(TaskSettings):
    """The distribution of a trained flow is tilted: times exp(reward_weight reward - cost_weight cost).

    The network follows the optimal control of the memoryless random path, which the gradients of reward and cost
    determine; draw from it as from any flow. A micro batch of `optim.global_batch` gives labels and captions; what is
    drawn for them begins at noise.

    Source: Domingo-Enrich, Drozdzal, Karrer and Chen, "Adjoint Matching", arXiv 2409.08861.
    """

    kind: Literal["adjoint_matching"] = "adjoint_matching"
    base: Base = None
    """The run whose flow is tilted, and which this one begins with; its folder will do. null: that of
    model.adapters."""
    reward: rewards.Config | None = None
    """How good a drawn example is, by operations that torch differentiates; null: nothing but the cost counts."""
    reward_weight: NonNegativeFloat = 1.0
    """What the reward is multiplied by: the larger, the further from the base."""
    cost: costs.Config | None = None
    """What is kept low on the way, integrated over time: attention, or a class of your own; null: nothing."""
    cost_weight: NonNegativeFloat = 1.0
    """What the cost is multiplied by."""
    steps: int = Field(default=40, ge=3)
    """Equal steps from noise to data, of which the network takes each, and the base is asked at each with its gradient.
    With fewer the tilt falls short."""
    nodes: PositiveInt = 10
    """Times at which a drawn path is learned from, chosen at random among those between the steps."""
    at_once: PositiveInt | None = None
    """Times of one forward pass in training, a divisor of `nodes`; null: all of them. Fewer take less memory."""
    floor: float = Field(default=1e-3, gt=0, le=1)
    """Keeps the noise of the memoryless path finite at t = 0; 1 / steps suits states in bf16, and tilts less well."""
    guidance: NonNegativeFloat = 1.0
    """Classifier-free guidance of the network and of the base: the flow that is tilted is the guided one, and samples
    are to be drawn with the same. 1 and 0 need one call of the network, others two."""

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.reward is None and self.cost is None:
            raise ValueError(
                "reward: null, and cost is null, too, so that there is nothing to tilt by; give one of them, such as "
                "task.reward.kind=ink"
            )
        return self

    @model_validator(mode="after")
    def _nodes_are_there(self) -> Self:
        if self.nodes > self.steps - 1:
            raise ValueError(
                f"nodes: {self.nodes} are more than the {self.steps - 1} times between {self.steps} steps; use "
                f"{self.steps - 1} or fewer"
            )
        if self.at_once is not None and self.nodes % self.at_once:
            raise ValueError(
                f"at_once: {self.at_once} does not divide nodes {self.nodes}; use a divisor of task.nodes, or null"
            )
        return self

    @property
    def passes(self) -> int:
        return self.nodes // self.at_once if self.at_once else 1

    @property
    def calls(self) -> tuple[Calls, ...]:
        """The rollout, the base backwards along it, and a pass that learns; calls of the base by a cost
        are left out.
        """
        rows = 1 if self.guidance in (0.0, 1.0) else 2
        return (
            Calls("rollout", self.steps, rows),
            Calls("rollout", self.steps, rows, gradient=True, reference=True),
            Calls("learn", rows=rows * self.nodes // self.passes, gradient=True),
        )
