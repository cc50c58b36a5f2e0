"""Objects whose true objectives have been asked: a file of the format ``flowfabric.measured/1``, and what asks them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.documents import JsonFile
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.config.task.environment import EnvironmentConfig, HyperGridConfig


class MeasureRequest(Section):
    """A batch of objects that are built, and what their objectives say of them."""

    environment: EnvironmentConfig = HyperGridConfig()
    """In which objects are built; in a file of stages that of the section ``task`` beside them."""
    run: Path | None = None
    """Folder of the run whose policy builds them, for preferences that are drawn; null: even choices build them."""
    measured: Path | None = None
    """File of the objects that were measured before, which are not measured again; null: there are none."""
    num: PositiveInt = 16
    """Objects of the batch, each one call of the objectives."""
    tries: PositiveInt = 50
    """Objects that are built at most for each one of the batch, until it holds enough that are new."""
    seed: NonNegativeInt = 0
    """Of what is built."""

    def what_decides(self, weights: str | None) -> dict[str, Any]:
        """Everything that the batch is a function of, by the names in its file; `weights` is the policy's digest."""
        before = None if self.measured is None else MeasuredFile.read(self.measured).digest
        own = self.model_dump(mode="json", include={"environment", "num", "tries", "seed"})
        return {**own, "weights": weights, "before": before}


class MeasuredFile(JsonFile):
    """Objects and their rewards, those of all rounds so far.

    Attributes:
        format: name and version of the format.
        environment: in which they were built.
        objectives: names of the rewards.
        objects: integers of the states, each object once.
        rewards: of each object, by objective.
        rounds: objects of each round, in the order of the list; their sum is how often the objectives were asked.
        made_by: what decided the last round: digests of policy and earlier file, seed and numbers.
    """

    remedy: ClassVar[str] = "write it with a stage of kind measure"
    format: Literal["flowfabric.measured/1"] = "flowfabric.measured/1"
    environment: EnvironmentConfig
    objectives: tuple[str, ...]
    objects: tuple[tuple[int, ...], ...] = Field(min_length=1)
    rewards: tuple[tuple[float, ...], ...]
    rounds: tuple[PositiveInt, ...]
    made_by: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _each_object_has_rewards(self) -> MeasuredFile:
        if not len(self.objects) == len(self.rewards) == sum(self.rounds):
            raise ValueError(
                f"rewards: {len(self.objects)} objects have {len(self.rewards)} rewards in rounds of "
                f"{sum(self.rounds)}; give one row of each for every object"
            )
        widths = {len(row) for row in self.rewards}
        if widths != {len(self.objectives)}:
            raise ValueError(
                f"rewards: rows have {sorted(widths)} numbers; give one for each of {len(self.objectives)}"
            )
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything that it holds."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class SurrogateConfig(Section):
    """A regression of the objectives on objects that were measured, in place of the objectives.

    The reward by each objective is the upper confidence bound of a Gaussian process: what the regression expects, and
    some standard deviations more where few objects were measured nearby.

    Source: Srinivas et al., "Gaussian Process Optimization in the Bandit Setting", 2010 (the bound); Jain et al.,
    "Multi-Objective GFlowNets", 2023, section 4.3 (policies that learn an acquisition function, round by round).
    """

    kind: Literal["surrogate"] = "surrogate"
    measured: Path
    """File of the objects, which a stage of kind measure writes."""
    deviations: float = Field(default=2.0, ge=0)
    """Standard deviations that are added: 0 builds what is known to be good, more looks where little is known."""
    digest: str | None = None
    """SHA-256 of what the file holds; filled when the run begins, after which another file is refused."""

    def read(self) -> MeasuredFile:
        """Reads the file; refuses one that is not the one that the run began with."""
        file = MeasuredFile.read(self.measured)
        if self.digest not in (None, file.digest):
            problem = f"is {file.digest}, and the run began with {self.digest}"
            raise Refusal(self.measured, "digest", problem, "bring the file back, or begin another run")
        return file

    def pinned(self) -> SurrogateConfig:
        """The same settings with the digest of the file."""
        return self.model_copy(update={"digest": self.read().digest})
