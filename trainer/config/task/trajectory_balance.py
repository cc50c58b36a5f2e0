"""Settings of policies that build objects as often as they are worth it."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.settings import Section
from trainer.config.model.mlp import PolicySizes
from trainer.config.task.environment import EnvironmentConfig, HyperGridConfig, SurrogateConfig
from trainer.config.task.protocol import Calls, TaskSettings


class DirichletConfig(Section):
    """Preferences drawn for each object from a Dirichlet distribution."""

    kind: Literal["dirichlet"] = "dirichlet"
    concentration: PositiveFloat = 1.0
    """Concentration for every objective: 1 draws all preferences alike, a smaller one those near a single objective
    more often."""


class SingleConfig(Section):
    """One preference for all objects."""

    kind: Literal["single"] = "single"
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    """Weights of the objectives, in their order; they sum to 1."""

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> "SingleConfig":
        if abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights: {list(self.weights)} sum to {sum(self.weights):g}; divide them by that")
        return self


class ExponentRange(Section):
    """Exponents drawn for each object, evenly between two numbers; the network sees which."""

    least: PositiveFloat
    """The smallest exponent."""
    most: PositiveFloat
    """The largest exponent, more than `least`."""

    @model_validator(mode="after")
    def _is_a_range(self) -> "ExponentRange":
        if self.most <= self.least:
            raise ValueError(
                f"most: {self.most:g} is not more than least {self.least:g}; give the single exponent instead"
            )
        return self


class TrajectoryBalanceTaskConfig(TaskSettings):
    """A policy that builds objects x with probabilities in proportion to R(x | w)^b, for any preference w.

    R weighs the objectives of the environment by w; b is the exponent. Jain et al., "Multi-Objective GFlowNets", 2023
    (preferences); Malkin et al., "Trajectory Balance", 2022, equation 14.
    """

    kind: Literal["trajectory_balance"] = "trajectory_balance"
    environment: EnvironmentConfig = HyperGridConfig()
    """Environment in which objects are built."""
    preferences: Annotated[DirichletConfig | SingleConfig, Field(discriminator="kind")] = DirichletConfig()
    """How much each objective counts."""
    scalarisation: Literal["weighted_sum", "weighted_log_sum", "tchebycheff"] = "weighted_sum"
    """Reward R of the objectives r. weighted_sum: sum of w r; weighted_log_sum: product of r^w; tchebycheff: 1 - max of
    w (1 - r)."""
    exponent: PositiveFloat | ExponentRange = 16.0
    """Exponent b to which rewards are raised: the higher, the more often the best objects come."""
    least_reward: float = Field(default=1e-80, gt=0, le=1)
    """Smallest reward: one below it counts as this, before it is raised to the exponent. Where many objects are worth
    nothing, 1e-3 or so learns faster: objects far too rare to be built need not be exactly as rare as their reward
    says."""
    log_reward: SurrogateConfig | None = Field(default=None, exclude_if=lambda chosen: chosen is None)
    """Source of the rewards by each objective; null: the objectives of the environment. A surrogate, fitted to objects
    that a stage of kind measure has measured, spares calls of the objectives."""
    backward: Literal["learned", "uniform"] = "learned"
    """Probabilities of the parents of a state, on the way back from an object: learned, or uniform over all parents."""
    exploration: float = Field(default=0.01, ge=0, lt=1)
    """Share of the actions in training that are drawn evenly among the possible ones."""
    bins: PositiveInt = 50
    """Numbers of the code in which a network reads the weight of an objective, and of the code of the exponent."""

    @model_validator(mode="after")
    def _each_objective_has_a_weight(self) -> "TrajectoryBalanceTaskConfig":
        objectives = self.environment.sizes.objectives
        if isinstance(self.preferences, SingleConfig) and len(self.preferences.weights) != len(objectives):
            raise ValueError(
                f"preferences.weights: {list(self.preferences.weights)} are {len(self.preferences.weights)}, and the "
                f"objectives are {', '.join(objectives)}; give {len(objectives)}"
            )
        return self

    @property
    def policy_sizes(self) -> PolicySizes:
        """Sizes of a network's input and output; its condition codes the preferences, and the exponent if it varies."""
        of = self.environment.sizes
        codes = len(of.objectives) + isinstance(self.exponent, ExponentRange)
        return PolicySizes(of.max_actions, of.features, self.bins * codes, of.actions, self.backward == "learned")

    def check_exponent(self, exponent: float, field: str) -> None:
        match self.exponent:
            case ExponentRange(least=least, most=most) if not least <= exponent <= most:
                raise ValueError(f"{field}: {exponent:g} is not between {least:g} and {most:g}, which the run learns")
            case float(fixed) if exponent != fixed:
                raise ValueError(
                    f"{field}: {exponent:g} is not the exponent {fixed:g} that the run learns; leave it out"
                )

    @property
    def most_exponent(self) -> float:
        return self.exponent.most if isinstance(self.exponent, ExponentRange) else self.exponent

    @property
    def calls(self) -> tuple[Calls, ...]:
        """Calls of the rollout and the loss; the longest path needs no call for its last action, which is the stop."""
        return (Calls("rollout", count=self.environment.sizes.max_actions - 1), Calls("learn", gradient=True))
