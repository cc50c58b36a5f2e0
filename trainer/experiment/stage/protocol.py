"""The protocol of stages, which can be checked, described and run, and which record the settings that made them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

from pydantic import BaseModel, ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.refusal import Refusal, lies_in, problem_and_remedy
from trainer.checkpoint.directory import check_possible, complete_steps
from trainer.config.file import validated
from trainer.config.rules.objection import Objections, errors
from trainer.config.rules.plan import validated_layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch

BASE = "{run.dir}"
"""Placeholder in strings for the folder of all stages."""


def filled(value: Any, base: str) -> Any:
    """A value with the folder of all stages in place of :data:`BASE`."""
    match value:
        case str():
            return value.replace(BASE, base)
        case dict():
            return {key: filled(inner, base) for key, inner in value.items()}
        case list():
            return [filled(inner, base) for inner in value]
    return value


def placed(value: Any, base: str) -> Any:
    """A value with :data:`BASE` in place of the folder of all stages, so that it is the same wherever that lies."""
    match value:
        case str():
            return BASE + value.removeprefix(base) if Path(value).is_relative_to(base) else value
        case dict():
            return {key: placed(inner, base) for key, inner in value.items()}
        case list():
            return [placed(inner, base) for inner in value]
    return value


R = TypeVar("R", bound=BaseModel)


class Cost(NamedTuple):
    """Cost of a stage: optimiser steps, and pairs that a teacher draws."""

    steps: int = 0
    pairs: int = 0


class Provenance(NamedTuple):
    """Settings and digests, by nested key, that made a finished stage, and those of the present configuration."""

    path: Path
    made: Mapping[str, Any]
    now: Mapping[str, Any]


@dataclass(frozen=True)
class Stage(ABC):
    """One run of a configuration, or what is prepared for one.

    Attributes:
        verb: what a file calls this kind of stage.
        trains: whether a trained network is its result.
        name: of the stage; empty for a configuration without stages.
        path: the file that it stands in.
        folder: where its results are.
        document: its settings, which name the results of earlier stages that it reads.
    """

    verb: ClassVar[str]
    trains: ClassVar[bool] = False
    name: str
    path: Path
    folder: Path
    document: dict[str, Any]

    @classmethod
    @abstractmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        """The stage that an entry of a file stands for.

        Args:
            path: the file.
            name: of the stage.
            base: folder of all stages.
            shared: the sections of the file beside its stages.
            settings: what the entry itself says.
        """

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether its results are there."""

    @abstractmethod
    def objections(self, world_size: int, stages: "Sequence[Stage]") -> Objections:
        """Yields the objections to it that are known before the stages that it reads from are finished.

        Args:
            world_size: ranks that run it.
            stages: all stages of the file, in their order.
        """

    @abstractmethod
    def run(self, launch: Launch) -> int:
        """Runs the stage, or what is left of it, on this rank.

        Returns:
            0 if it is done, 75 if it was stopped, has saved and is to be started again.

        Raises:
            ValueError: it is wrong; nothing has been joined or written.
        """

    @abstractmethod
    def describe(self, world_size: int, stages: "Sequence[Stage]") -> None:
        """Prints what it will do, for the check verb; ValueError if it is wrong."""

    def propose(self, world_size: int, limit: int) -> None:
        """Prints settings with which a rank fits into so many bytes; ValueError if none does."""
        del world_size, limit

    def detail(self, world_size: int) -> None:
        """Prints every setting and every collective of a step."""
        del world_size

    @abstractmethod
    def provenance(self) -> Provenance:
        """Returns the settings and digests that made a finished stage, and the present ones.

        Raises:
            Refusal: its record, or a file that decides its results, cannot be read.
        """

    @property
    def cost(self) -> Cost:
        """Cost of the stage; none by default."""
        return Cost()

    @property
    def share_done(self) -> float:
        """Share of the stage that is done, 0 to 1, by the files in its folder; by default 1 if finished, else 0."""
        return float(self.finished)

    @property
    def teacher(self) -> Path | None:
        """Folder of the run whose network it uses; None: it uses none."""
        return None

    def read_from(self, stages: "Sequence[Stage]") -> "list[Stage]":
        """The stages that this one reads from."""
        texts = {Path(text) for text in _texts(self.document)}
        earlier = stages[: stages.index(self)]
        return [stage for stage in earlier if any(stage.folder in (text, *text.parents) for text in texts)]

    def awaited(self, stages: "Sequence[Stage]") -> "list[Stage]":
        """The stages that this one reads from and that are not finished."""
        return [stage for stage in self.read_from(stages) if not stage.finished]

    def _blamed(self, rule: Objections) -> Objections:
        """The objections of a rule, each of which names the stage."""
        for error in errors(rule):
            yield Refusal(self.path, f"stages.{self.name}", *problem_and_remedy(error))

    def _validated(self, request: type[R], document: dict[str, Any]) -> R:
        try:
            return request.model_validate(document)
        except ValidationError as error:
            complaint = first_complaint(error, document)
            field, remedy = f"stages.{self.name}.{complaint.field}", complaint.remedy or "correct the value"
            raise Refusal(self.path, field, complaint.problem, remedy) from complaint.cause or error


@dataclass(frozen=True)
class ConfiguredStage(Stage):
    """A stage whose document is the sections of a configuration."""

    def config(self) -> RunConfig:
        """The sections, validated; missing files of earlier stages are objected to only if nothing else is wrong."""
        try:
            return validated(self.path, self.document)
        except Refusal as error:
            if not self.name:
                raise
            problem = f"{error.field}: {error.problem}"
            raise Refusal(self.path, f"stages.{self.name}", problem, error.remedy) from error

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:
        yield from until_awaited(self._of_config(world_size), self.awaited(stages))

    def _of_config(self, world_size: int) -> Objections:
        yield from validated_layout(self.config(), world_size)


def until_awaited(rule: Objections, awaited: Sequence[Stage]) -> Objections:
    """Yields the objections of a rule, and stops at the first that is due to missing results of stages."""
    for error in errors(rule):
        if awaits(error, awaited) is not None:
            return
        yield error


def awaits(error: ValueError, awaited: Sequence[Stage]) -> Stage | None:
    """The stage whose missing results cause an error; None if the error has another cause."""
    return next((stage for stage in awaited if lies_in(error, stage.folder)), None)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)


@dataclass(frozen=True)
class RequestedStage(Stage, Generic[R]):
    """A stage that carries out a request and trains nothing; it is finished once its last file exists.

    Attributes:
        asks: class of the request.
        result: name of the last file.
    """

    asks: ClassVar[type[BaseModel]]
    result: ClassVar[str]

    @property
    def file(self) -> Path:
        """The last file that it writes."""
        return self.folder / self.result

    @property
    def finished(self) -> bool:
        return self.file.exists()

    def request(self) -> R:
        """The request, validated."""
        return cast("R", self._validated(self.asks, self.document))

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:
        """Prints the request, which any number of ranks can run."""
        del world_size, stages
        print(self.request().model_dump_json())


@dataclass(frozen=True)
class TaughtStage(RequestedStage[R]):
    """A stage that uses the network of an earlier stage or of an existing run.

    It ignores the other sections of the file.
    """

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        del shared
        return cls(name, path, Path(base) / name, filled(settings, base))

    @property
    def teacher(self) -> Path | None:
        run = self.document.get("run")
        return None if run is None else Path(str(run))

    def _check_teacher(self, stages: Sequence[Stage]) -> RunConfig | None:
        """Configuration of the teacher's stage; None if no earlier stage trains it, or that stage awaits others."""
        teacher = self.teacher
        assert teacher is not None
        check_possible(teacher / "checkpoints")
        earlier = [
            stage for stage in stages[: stages.index(self)] if isinstance(stage, ConfiguredStage) and stage.trains
        ]
        for stage in earlier:
            if stage.folder == teacher:
                return None if stage.awaited(stages) else stage.config()
        if complete_steps(teacher / "checkpoints"):
            return None
        named = ", ".join(str(stage.folder) for stage in earlier) or "there is none"
        remedy = f"give the folder of an earlier stage that trains ({named}), or that of a run"
        raise Refusal(self.path, f"stages.{self.name}.run", f"there is no run in {teacher}", remedy)
