"""Settings of environments, in whose states objects are built action by action, and files of measured objects.

Files of the format ``flowfabric.measured/1`` hold objects whose true objectives have been measured.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from netsim.foundation.documents import JsonFile
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section


@dataclass(frozen=True)
class EnvironmentSizes:
    """Features of a state, actions and most actions of an object, both with the stop, and names of its rewards."""

    features: int
    actions: int
    max_actions: int
    objectives: tuple[str, ...]


GridObjective = Literal["branin", "currin", "shubert", "sphere", "beale"]


class HyperGridConfig(Section):
    """A grid on the unit cube: an action adds one to a coordinate, and an object is the cell where it stops.

    Objectives are functions of the place of the cell, with values from 0 to 1.
    """

    kind: Literal["hypergrid"] = "hypergrid"
    side: int = Field(default=16, ge=2)
    """Number of cells along each coordinate."""
    dimensions: PositiveInt = 2
    """Coordinates; all objectives but sphere are functions of the first two."""
    objectives: Annotated[tuple[GridObjective, ...], Field(min_length=1)] = ("branin", "currin")
    """Objectives by which an object is valued; 1 is the best value of each."""

    @model_validator(mode="after")
    def _functions_have_arguments(self) -> HyperGridConfig:
        _check_distinct("objectives", self.objectives)
        planar = [name for name in self.objectives if name != "sphere"]
        if self.dimensions < 2 and planar:
            raise ValueError(
                f"dimensions: {self.dimensions} is less than the 2 that {planar[0]} is a function of; use 2"
            )
        return self

    @property
    def sizes(self) -> EnvironmentSizes:
        return EnvironmentSizes(
            features=self.side * self.dimensions,
            actions=self.dimensions + 1,
            max_actions=self.dimensions * (self.side - 1) + 1,
            objectives=self.objectives,
        )


class NGramConfig(Section):
    """Words, written letter by letter from the left; their objectives count the n-grams that they hold."""

    kind: Literal["ngram"] = "ngram"
    alphabet: Annotated[str, Field(min_length=2, pattern=r"^[A-Za-z]+$")] = "ABCD"
    """The letters, each once; capital and small ones differ."""
    length: PositiveInt = 6
    """Letters of the longest word."""
    least_length: PositiveInt | None = None
    """Letters of the shortest word, at which it may stop; null: all words have `length`."""
    objectives: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("AB", "CA")
    """N-grams: a word is worth how often it holds each, overlaps included, over how often a word of `length` can."""

    @model_validator(mode="after")
    def _n_grams_can_be_written(self) -> NGramConfig:
        _check_distinct("alphabet", tuple(self.alphabet))
        _check_distinct("objectives", self.objectives)
        for ngram in self.objectives:
            foreign = [letter for letter in ngram if letter not in self.alphabet]
            if foreign:
                raise ValueError(
                    f"objectives: {ngram} holds {foreign[0]}, which is not in alphabet {self.alphabet}; add it"
                )
            if len(ngram) > self.length:
                raise ValueError(f"objectives: {ngram} is longer than length {self.length}; use {len(ngram)} or more")
        if self.shortest > self.length:
            raise ValueError(
                f"least_length: {self.least_length} exceeds length {self.length}; use at most {self.length}"
            )
        return self

    @property
    def shortest(self) -> int:
        return self.least_length or self.length

    @property
    def sizes(self) -> EnvironmentSizes:
        return EnvironmentSizes(
            features=self.length * len(self.alphabet),
            actions=len(self.alphabet) + 1,
            max_actions=self.length + 1,
            objectives=self.objectives,
        )


class OwnEnvironment(OwnClass, frozen=True):
    """A class that keeps `trainer.task.environment.Environment`; it is tried on random walks before a run starts."""

    protocol: ClassVar[str] = "trainer.task.environment.Environment"

    @property
    def sizes(self) -> EnvironmentSizes:
        return _own_sizes(self)


AnyEnvironmentConfig = HyperGridConfig | NGramConfig | OwnEnvironment
EnvironmentConfig = Annotated[AnyEnvironmentConfig, KindOrClass()]


@lru_cache(maxsize=16)
def _own_sizes(config: OwnEnvironment) -> EnvironmentSizes:
    place = f"task.environment.class: {config.class_path}"
    try:
        environment = build_own(config)
    except Exception as error:  # whatever the code of a user's class leads to
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{place} cannot be made of its settings ({reason}); correct them or its __init__") from error
    counts = {"num_features": 1, "num_actions": 2, "max_actions": 1}
    features, actions, longest = (_count(place, environment, name, least) for name, least in counts.items())
    names: Any = environment.objectives
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(
            f"{place}.objectives is {names!r}; give names of letters, digits and underscores, such as ('size',)"
        )
    _check_distinct(f"{place}.objectives", tuple(names))
    return EnvironmentSizes(features, actions, longest, tuple(names))


def _count(place: str, environment: Any, name: str, least: int) -> int:
    value = getattr(environment, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{place}.{name} is {value!r}; set a whole number of {least} or more")
    return value


def _check_distinct(field: str, values: tuple[str, ...]) -> None:
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ValueError(f"{field}: {twice[0]} stands there twice; leave one out")


class MeasureRequest(Section):
    """A batch of objects that are built, and the measurement of their objectives."""

    environment: EnvironmentConfig = HyperGridConfig()
    """Environment in which objects are built; in a file of stages, the environment of the section ``task`` beside
    them."""
    run: Path | None = None
    """Folder of the run whose policy builds the objects, for drawn preferences; null: all possible actions are equally
    likely."""
    measured: Path | None = None
    """File of the objects that were measured before, which are not measured again; null: there are none."""
    num: PositiveInt = 16
    """Objects of the batch, each one call of the objectives."""
    tries: PositiveInt = 50
    """Largest number of objects that are built for each object of the batch, until the batch holds enough new ones."""
    seed: NonNegativeInt = 0
    """Seed of the objects that are built."""

    def what_decides(self, weights: str | None) -> dict[str, Any]:
        """Returns all inputs that determine the batch, by their names in its file; `weights` is the policy's digest."""
        before = None if self.measured is None else MeasuredFile.read(self.measured).digest
        own = self.model_dump(mode="json", include={"environment", "num", "tries", "seed"})
        return {**own, "weights": weights, "before": before}


class MeasuredFile(JsonFile):
    """Objects (integers of states, each once) and their rewards by objective, of all rounds so far.

    The sum of `rounds` is how often objectives were called; `made_by` holds what decided the last one.
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
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class SurrogateConfig(Section):
    """A regression of the objectives on objects that were measured, in place of the objectives.

    The reward by each objective is the upper confidence bound of a Gaussian process: its mean plus some standard
    deviations, which are larger where few objects were measured nearby. Srinivas et al., 2010 (the bound); Jain et al.,
    "Multi-Objective GFlowNets", 2023, section 4.3 (policies that learn an acquisition function, round by round).
    """

    kind: Literal["surrogate"] = "surrogate"
    measured: Path
    """File of the objects, which a stage of kind measure writes."""
    deviations: float = Field(default=2.0, ge=0)
    """Standard deviations that are added to the expectation: 0 builds objects that are known to be good, more explores
    where little is known."""
    digest: str | None = None
    """SHA-256 of the content of the file; filled in when the run begins, after which another file is refused."""

    def read(self) -> MeasuredFile:
        """Reads the file; refuses one whose digest differs from that at the start of the run."""
        file = MeasuredFile.read(self.measured)
        if self.digest not in (None, file.digest):
            problem = f"is {file.digest}, and the run began with {self.digest}"
            raise Refusal(self.measured, "digest", problem, "bring the file back, or begin another run")
        return file

    def pinned(self) -> SurrogateConfig:
        return self.model_copy(update={"digest": self.read().digest})
