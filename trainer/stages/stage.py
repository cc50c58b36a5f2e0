"""The stages: a run that trains, pairs that a teacher draws, a path that is fitted to data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from moe.files import FileError, first_complaint
from trainer.checkpoint.directory import complete_steps
from trainer.config import RunConfig
from trainer.config_file import validated
from trainer.data.shard_index import INDEX
from trainer.layout import plan_layout
from trainer.legality.drawing import check_drawn_by
from trainer.pairs.request import PairsRequest
from trainer.path_fit.request import TABLE, FitRequest, check_fitted_to

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


@dataclass(frozen=True)
class TrainStage(_ConfiguredStage):
    """A run that trains what its configuration says."""

    verb = "train"

    @property
    def finished(self) -> bool:
        """Whether the checkpoint of its last step is there."""
        steps = complete_steps(self.folder / "checkpoints")
        return bool(steps) and steps[-1] == (self.document.get("optim") or {}).get("steps")


@dataclass(frozen=True)
class PairsStage(_Stage):
    """Pairs of source and data points that a teacher draws; its document is what is asked of the teacher."""

    verb = "pairs"

    @property
    def finished(self) -> bool:
        """Whether the index of the pairs is there, which is written last."""
        return (self.folder / INDEX).exists()

    def request(self) -> PairsRequest:
        """What is asked of the teacher.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(PairsRequest, self.document)

    def check(self, world_size: int, stages: Sequence[_Stage]) -> None:  # noqa: ARG002  any number of ranks draws pairs
        """See the base class."""
        request, teacher = self.request(), self.request().run
        earlier = [stage for stage in stages[: stages.index(self)] if isinstance(stage, TrainStage)]
        for stage in earlier:
            if stage.folder == teacher and not stage.awaited(stages):
                with self._told():
                    check_drawn_by(stage.config(), request.sampler, request.guidance)
        self._check_held_out(request.num, stages)
        if any(stage.folder == teacher for stage in earlier) or complete_steps(teacher / "checkpoints"):
            return
        named = ", ".join(str(stage.folder) for stage in earlier) or "there is none"
        remedy = f"give the folder of an earlier stage that trains ({named}), or that of a run"
        raise FileError(self.path, f"stages.{self.name}.run", f"there is no run in {teacher}", remedy)

    def _check_held_out(self, num: int, stages: Sequence[_Stage]) -> None:
        """Refuses pairs of which a later stage holds out all."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document.get("data"):
                case {"path": path, "held_out": int(held_out)} if Path(str(path)) == self.folder and held_out >= num:
                    problem = f"{num} leave none to train on to stage {stage.name}, which holds out {held_out}"
                    remedy = f"draw more, or lower stages.{stage.name}.data.held_out"
                    raise FileError(self.path, f"stages.{self.name}.num", problem, remedy)


@dataclass(frozen=True)
class FitPathStage(_ConfiguredStage):
    """A path that is fitted to the data of the runs that its configuration stands for.

    Attributes:
        asked: of the fit.
    """

    verb = "fit-path"
    asked: dict[str, Any]

    @property
    def table(self) -> Path:
        """The file that it writes."""
        return self.folder / TABLE

    @property
    def finished(self) -> bool:
        """Whether the table is there."""
        return self.table.exists()

    def request(self) -> FitRequest:
        """What is asked of the fit.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(FitRequest, self.asked)

    def check(self, world_size: int, stages: Sequence[_Stage]) -> None:
        """See the base class."""
        self.request()
        super().check(world_size, stages)
        if not self.awaited(stages):
            config = self.config()
            with self._told():
                check_fitted_to(config)


Stage: TypeAlias = TrainStage | PairsStage | FitPathStage
"""One run of a configuration."""


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
