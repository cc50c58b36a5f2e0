"""The stages: a run that trains, pairs that a teacher draws, a path that is fitted to data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError

from moe.files import FileError
from moe.validation.complaint import first_complaint
from trainer.config.constraints.plan import plan_layout
from trainer.config.file import validated
from trainer.config.run import RunConfig

R = TypeVar("R", bound=BaseModel)
S = TypeVar("S", bound="_Stage")


@dataclass(frozen=True)
class _Stage(ABC):
    """What every stage knows of itself.

    Attributes:
        verb: what a file calls what is done.
        name: of the stage; empty for a configuration without stages.
        path: the file that it stands in.
        folder: where its results are.
        document: what it works on; what an earlier stage wrote is named in it.
    """

    verb: ClassVar[str]
    name: str
    path: Path
    folder: Path
    document: dict[str, Any]

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether nothing is left to do; told by its files."""

    @abstractmethod
    def check(self, world_size: int, stages: "Sequence[_Stage]") -> None:
        """Refuses what cannot be run, as far as can be told before the stages that it reads from are finished.

        Args:
            world_size: ranks that run it.
            stages: all stages of the file, in their order.

        Raises:
            ValueError: it is wrong.
        """

    def read_from(self, stages: "Sequence[S]") -> "list[S]":
        """The stages that this one reads from.

        Args:
            stages: all stages of the file, in their order.
        """
        texts = {Path(text) for text in _texts(self.document)}
        earlier = stages[: stages.index(self)]
        return [stage for stage in earlier if any(stage.folder in (text, *text.parents) for text in texts)]

    def awaited(self, stages: "Sequence[S]") -> "list[S]":
        """The stages that this one reads from and that are not finished.

        Args:
            stages: all stages of the file, in their order.
        """
        return [stage for stage in self.read_from(stages) if not stage.finished]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says of which stage a refusal is."""
        try:
            yield
        except ValueError as error:
            reason, _, remedy = str(error).partition("; ")
            raise FileError(self.path, f"stages.{self.name}", reason, remedy) from error

    def _asked(self, request: type[R], document: dict[str, Any]) -> R:
        try:
            return request.model_validate(document)
        except ValidationError as error:
            where, reason = first_complaint(error, document)
            reason, _, remedy = reason.partition("; ")
            raise FileError(self.path, f"stages.{self.name}.{where}", reason, remedy or "correct the value") from error


@dataclass(frozen=True)
class _ConfiguredStage(_Stage):
    """A stage whose document is the sections of a configuration."""

    def config(self, awaited: "Sequence[_Stage]" = ()) -> RunConfig:
        """The sections, validated.

        Args:
            awaited: stages whose results are not there yet; that they lack is told only if nothing else is wrong.

        Raises:
            FileError: they are wrong, or what they read is not there yet.
        """
        try:
            return validated(self.path, self.document, [str(stage.folder) for stage in awaited])
        except FileError as error:
            if not self.name:
                raise
            raise FileError(self.path, f"stages.{self.name}", *_parted(error, self.path)) from error

    def check(self, world_size: int, stages: Sequence[_Stage]) -> None:
        """See the base class."""
        awaited = self.awaited(stages)
        try:
            plan_layout(self.config(awaited), world_size)
        except ValueError as error:
            if awaits(error, awaited) is None:
                raise


def awaits(error: ValueError, awaited: Sequence[_Stage]) -> _Stage | None:
    """The stage whose results an error misses; None: it is about something else."""
    return next((stage for stage in awaited if str(stage.folder) in str(error)), None)


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


def _parted(error: FileError, path: Path) -> tuple[str, str]:
    problem, _, remedy = str(error).removeprefix(f"{path}: ").rpartition("; ")
    return problem, remedy
