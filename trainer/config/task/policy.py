"""Settings of tasks that learn from rewards: group relative policy optimisation and adjoint matching."""

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from trainer.config.task.protocol import Base, Calls, TaskSettings
from trainer.flow import cost as costs
from trainer.flow import reward as rewards
from trainer.flow.reward import Config as RewardConfig
from trainer.flow.sampler.sde import DiffusionConfig, FlowGRPODiffusion


class GRPOConfig(TaskSettings):
    """Examples with a larger reward become more likely: group relative policy optimisation of a flow.

    A trained flow draws a group for each label or caption by steps with noise, and learns from how much rewards differ
    within a group. An example of `optim.global_batch` is a prompt. Liu et al., "Flow-GRPO", arXiv 2505.05470; He et
    al., "TempFlow-GRPO", arXiv 2508.04324.
    """

    trains_flow: ClassVar[bool] = True
    replays: ClassVar[bool] = True
    weighs: ClassVar[bool] = True
    """Groups of equal rewards do not count, so ranks exchange the number of those that do once a step."""

    kind: Literal["grpo"] = "grpo"
    base: Base = None
    """The run that this one continues, and near which `kl` keeps it; its folder will do."""
    reward: RewardConfig
    """How good a drawn example is."""
    steps: int = Field(default=10, ge=2)
    """Equal steps from noise to data. All but the last add noise, and each of these is learned."""
    a: PositiveFloat = 0.7
    """Scale of the noise: sigma^2 = a^2 (1 - t) / t."""
    diffusion: DiffusionConfig | None = None
    """Diffusion e = sigma^2 / 2 in place of the noise of `a`: at source and data, linear in between; null: the noise of
    `a`."""
    group: int = Field(default=24, ge=2)
    """Examples that are drawn for a prompt."""
    branches: PositiveInt = 1
    """Examples of a group that begin at the same noise; a group has `group` / `branches` different noises."""
    rollout: Literal["full_sde", "branch"] = "full_sde"
    """full_sde: all steps but the last of a trajectory add noise, and share its reward. branch: trajectories add noise
    in one step alone, for each step in turn, so that the reward belongs to this step; this takes `steps` / 2 times as
    many calls of the network, and `steps` - 1 times as many rewards."""
    groups: Literal["prompt", "seed"] = "prompt"
    """Examples among which rewards are compared. prompt: all examples of a prompt; seed: those that begin at the same
    noise."""
    weight: Literal["none", "noise_mean_one", "noise_scaled"] = "none"
    """Weight of a step in the loss. none: 1; noise_mean_one: proportional to the deviation sigma sqrt(h) of its noise,
    1 on average over the steps; noise_scaled: 2.25 sigma sqrt(h), as published."""
    clip: PositiveFloat = 0.2
    """Largest distance from 1 at which the ratio of new to old probability still gains. The logarithm of the ratio is
    the mean, not the sum, over the values of a state, so that a ratio of the whole state leaves 1 the faster the more
    values it has; for images of many values 1e-4 and less are usual."""
    kl: NonNegativeFloat = 0.004
    """Weight of the Kullback-Leibler divergence of each step from the step of the base, a mean over the values of a
    state; 0: the base is not evaluated."""
    advantage_limit: PositiveFloat = 5.0
    """Largest absolute value of an advantage, in standard deviations of the rewards of its group."""
    updates: PositiveInt = 1
    """Optimiser steps that learn from the same drawn examples, which the weights before the first of these steps
    draw."""
    guidance: NonNegativeFloat = 1.0
    """Scale of classifier-free guidance, in drawing and in learning alike; 1 and 0 need one call of the network, other
    values two."""

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.group % self.branches:
            raise ValueError(
                f"branches: {self.branches} do not divide a group of {self.group}; use a divisor of task.group"
            )
        if self.groups == "seed" and self.branches == 1:
            raise ValueError(
                "groups: seed compares examples that begin at the same noise, and with branches 1 there is only one; "
                "use branches of 2 or more, 6 for most tasks"
            )
        return self

    @model_validator(mode="after")
    def _every_step_has_noise(self) -> Self:
        if isinstance(self.diffusion, tuple) and not self.diffusion[0]:
            raise ValueError(
                "diffusion: 0 at the source leaves the first step without noise, and nothing to choose; use a rate "
                "above 0 there, or null"
            )
        return self

    @property
    def noise(self) -> DiffusionConfig:
        return FlowGRPODiffusion(a=self.a) if self.diffusion is None else self.diffusion

    @property
    def seeds(self) -> int:
        return self.group // self.branches

    @property
    def states(self) -> int:
        """Number of states of a prompt at which one step is learned."""
        return self.seeds if self.rollout == "branch" else self.group

    @property
    def passes(self) -> int:
        return self.steps - 1

    @property
    def cycle(self) -> int:
        return self.updates

    @property
    def rewards(self) -> int:
        """Number of rewards that are computed for a prompt."""
        return self.group * (self.passes if self.rollout == "branch" else 1)

    @property
    def network_calls(self) -> int:
        """Number of states of a prompt at which a network is called: in drawing, in learning and by the base."""
        times = {"rollout": 1, "learn": self.passes}
        return sum(times[call.phase] * call.count * call.rows for call in self.calls)

    @property
    def calls(self) -> tuple[Calls, ...]:
        guided = 1 if self.guidance in (0.0, 1.0) else 2
        group, seeds, states = guided * self.group, guided * self.seeds, guided * self.states
        drawn = (Calls("rollout", self.steps, group),)
        if self.rollout == "branch":
            to_the_branches = Calls("rollout", self.passes, seeds)
            drawn = (to_the_branches, Calls("rollout", self.steps * self.passes // 2, group))
        base = (Calls("rollout", self.passes, states, reference=True),) if self.kl else ()
        return (*drawn, *base, Calls("learn", 1, states, gradient=True))


class AdjointMatchingConfig(TaskSettings):
    """Tilts the distribution of a trained flow: multiplies it by exp(reward_weight reward - cost_weight cost).

    The network follows the optimal control of the memoryless random path, which the gradients of both determine; draw
    from it as from any flow. A micro batch gives labels and captions; what is drawn for them begins at noise.
    Domingo-Enrich et al., "Adjoint Matching", arXiv 2409.08861.
    """

    trains_flow: ClassVar[bool] = True

    kind: Literal["adjoint_matching"] = "adjoint_matching"
    base: Base = None
    """The run whose flow is tilted, and with which this one begins; its folder will do. null: the base of
    model.adapters."""
    reward: rewards.Config | None = None
    """How good a drawn example is, by operations that torch differentiates; null: nothing but the cost counts."""
    reward_weight: NonNegativeFloat = 1.0
    """Factor of the reward; the larger, the further the flow gets from the base."""
    cost: costs.Config | None = None
    """Running cost that is kept low, integrated over the time of a path: attention, or a class of your own; null:
    none."""
    cost_weight: NonNegativeFloat = 1.0
    """Factor of the cost."""
    steps: int = Field(default=40, ge=3)
    """Equal steps from noise to data. At each the network is evaluated, and the base with its gradient. With fewer the
    tilt falls short."""
    nodes: PositiveInt = 10
    """Times of a drawn path at which the network learns, chosen at random among the times between the steps."""
    at_once: PositiveInt | None = None
    """Times of one forward pass in training, a divisor of `nodes`; null: all of them. Fewer take less memory."""
    floor: float = Field(default=1e-3, gt=0, le=1)
    """Number above 0 that keeps the noise of the memoryless path finite at t = 0; 1 / steps suits states in bf16, and
    tilts less well."""
    guidance: NonNegativeFloat = 1.0
    """Scale of classifier-free guidance of the network and of the base. The guided flow is tilted, and samples are to
    be drawn with the same guidance. 1 and 0 need one call of the network, other values two."""

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
        """Calls of the rollout, of the base backwards along it, and of learning; a cost may call the base too."""
        rows = 1 if self.guidance in (0.0, 1.0) else 2
        return (
            Calls("rollout", self.steps, rows),
            Calls("rollout", self.steps, rows, gradient=True, reference=True),
            Calls("learn", rows=rows * self.nodes // self.passes, gradient=True),
        )


Config = GRPOConfig | AdjointMatchingConfig
