"""Runs that follow one another: a teacher, the pairs that it draws, the student that learns from them.

Or a path that is fitted to data, and the run along it. A configuration with a list ``stages`` stands for several runs
in folders below its ``run.dir``. What a stage does not say itself is in the other sections of the file, and
``{run.dir}`` in a string is the folder of all stages together.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from moe.files import FileError, first_complaint
from trainer.checkpoint.directory import complete_steps
from trainer.config import RunConfig
from trainer.config_file import apply_override, read_document, validated
from trainer.data.shard_index import INDEX
from trainer.engine.groups import STAGE, Launch
from trainer.pairs.request import PairsRequest
from trainer.path_fit.request import TABLE, FitRequest, without_path

HANDED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
BASE = "{run.dir}"
R = TypeVar("R", bound=BaseModel)
Work = Literal["train", "pairs", "fit-path"]


@dataclass(frozen=True)
class Stage:
    """One run of a configuration.

    Attributes:
        name: of the stage; empty for a configuration without stages.
        verb: what is done.
        document: the sections of its configuration, or what is asked of a teacher; to fit a path, the sections that
            name the data.
        folder: where its results are.
        path: the file that it stands in.
        asked: what is asked of a fit.
    """

    name: str
    verb: Work
    document: dict[str, Any]
    folder: Path
    path: Path
    asked: dict[str, Any] = field(default_factory=dict)

    def config(self) -> RunConfig:
        """The configuration of a train stage, or of the runs that a path is fitted for.

        Raises:
            FileError: it is wrong, or what it reads is not there yet.
        """
        try:
            return validated(self.path, self.document)
        except FileError as error:
            if not self.name:
                raise
            raise FileError(self.path, f"stages.{self.name}", *_parted(error, self.path)) from error

    def request(self) -> PairsRequest:
        """What a pairs stage asks for.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(PairsRequest, self.document)

    def fit(self) -> FitRequest:
        """What a fit-path stage asks for.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(FitRequest, self.asked)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do; told by its files."""
        if self.verb != "train":
            return (self.folder / (INDEX if self.verb == "pairs" else TABLE)).exists()
        steps = complete_steps(self.folder / "checkpoints")
        return bool(steps) and steps[-1] == (self.document.get("optim") or {}).get("steps")

    def awaited(self, stages: "Sequence[Stage]") -> "list[Stage]":
        """The stages that this one reads from and that are not finished."""
        texts = {Path(text) for text in _texts(self.document)}
        earlier = stages[: stages.index(self)]
        read = [stage for stage in earlier if any(stage.folder in (text, *text.parents) for text in texts)]
        return [stage for stage in read if not stage.finished]

    def _asked(self, request: type[R], document: dict[str, Any]) -> R:
        try:
            return request.model_validate(document)
        except ValidationError as error:
            where, reason = first_complaint(error, document)
            reason, _, remedy = reason.partition("; ")
            raise FileError(self.path, f"stages.{self.name}.{where}", reason, remedy or "correct the value") from error


def load_stages(path: Path | str, overrides: Sequence[str] = ()) -> list[Stage]:
    """Reads a configuration with or without stages.

    Args:
        path: YAML file.
        overrides: ``dotted.key=value``; ``stages.NAME.key=value`` changes one stage, whose own settings win.

    Returns:
        The stages in their order; one without a name if the file has none.

    Raises:
        FileError: the file is malformed, a stage has no name or nothing to do, or an override names no stage.
    """
    path = Path(path)
    return stages_of(path, read_document(path), overrides)


def stages_of(path: Path, document: dict[str, Any], overrides: Sequence[str] = ()) -> list[Stage]:
    """The stages that the sections of a file make.

    Args:
        path: of the file, for what is said of it.
        document: its sections; changed by the overrides.
        overrides: as for :func:`load_stages`.

    Raises:
        FileError: as :func:`load_stages`.
    """
    listed = document.pop("stages", None)
    addressed = [override for override in overrides if override.startswith("stages.")]
    for override in overrides:
        if override not in addressed:
            apply_override(path, document, override)
    run = document.get("run")
    base = run.get("dir") if isinstance(run, dict) else None
    if listed is None and not addressed:
        return [Stage("", "train", document, Path(str(base)), path)]
    if not isinstance(base, str):
        raise FileError(path, "run.dir", f"is no folder ({base})", "name the folder of all stages")
    entries = _entries(path, listed)
    for override in addressed:
        name, _, rest = override.removeprefix("stages.").partition(".")
        if name not in entries:
            raise FileError(path, override, f"there is no stage {name}", f"use one of {', '.join(entries)}")
        apply_override(path, entries[name][1], rest)
    return [_stage(path, document, name, *entry, base) for name, entry in entries.items()]


def chosen(stages: Sequence[Stage], name: str | None) -> Stage:
    """One of the stages by its name; the only one of a configuration without stages.

    Raises:
        ValueError: there is no such stage.
    """
    for stage in stages:
        if stage.name == (name or ""):
            return stage
    known = ", ".join(stage.name for stage in stages if stage.name) or "none"
    raise ValueError(f"--stage: there is no stage {name} in {stages[0].path} (there are {known}); name one of them")


def check_stages(stages: Sequence[Stage], world_size: int) -> None:
    """Refuses stages that cannot be run, as far as can be told before those that they read from are finished.

    Args:
        stages: from :func:`load_stages`.
        world_size: ranks that run them.

    Raises:
        ValueError: a stage is wrong.
    """
    from trainer.layout import plan_layout

    for stage in stages:
        if stage.verb == "pairs":
            stage.request()
            continue
        if stage.verb == "fit-path":
            stage.fit()
        try:
            plan_layout(stage.config(), world_size)
        except ValueError:
            if not stage.awaited(stages):
                raise


def run_stages(stages: Sequence[Stage], path: Path, overrides: Sequence[str], launch: Launch) -> int:
    """Runs the stages that are not finished, each as a process of its own on every rank.

    Args:
        stages: from :func:`load_stages`.
        path: the configuration file.
        overrides: as they were given.
        launch: what the launcher said.

    Returns:
        0 if all are done, otherwise the exit code of the first that was not: 75 if it was told to stop.

    Raises:
        ValueError: a stage is wrong; as far as can be told before those that it reads from are finished, no stage
            has then begun.
    """
    check_stages(stages, launch.world_size)
    for number, stage in enumerate(stages, start=1):
        if launch.rank == 0:
            doing = "is finished" if stage.finished else f"begins ({stage.verb})"
            print(f"stage {number} of {len(stages)}, {stage.name}: {doing}", file=sys.stderr, flush=True)
        if not stage.finished:
            code = _in_a_process([str(path), *overrides, "--stage", stage.name], stage.name)
            if code:
                return code
    return 0


def _in_a_process(arguments: Sequence[str], name: str) -> int:
    """Runs one stage on this rank; what this process is told by signals, that one is told."""
    command = [sys.executable, "-m", "trainer", "train", *arguments]
    child = subprocess.Popen(command, env={**os.environ, STAGE: name})
    before = {number: signal.signal(number, lambda told, _: child.send_signal(told)) for number in HANDED_ON}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 1


def _entries(path: Path, listed: Any) -> dict[str, tuple[Work, dict[str, Any]]]:
    """Verb and settings of each stage by its name."""
    if not isinstance(listed, list) or not listed:
        raise FileError(path, "stages", "is no list of stages", "write - {name: NAME, train: {...}} for each")
    entries: dict[str, tuple[Work, dict[str, Any]]] = {}
    for number, entry in enumerate(listed):
        where = f"stages.{number}"
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise FileError(path, where, f"has no name that a folder can have ({name})", "write name: NAME")
        if name in entries:
            raise FileError(path, where, f"{name} stands there twice", "name each stage differently")
        verbs = [key for key in entry if key != "name"]
        if len(verbs) != 1 or verbs[0] not in get_args(Work):
            raise FileError(path, where, f"says {verbs or 'nothing'} to do", "give it either train, pairs or fit-path")
        settings = entry[verbs[0]] or {}
        if not isinstance(settings, dict):
            raise FileError(path, where, f"{verbs[0]} is no section ({settings})", "write sections under it")
        entries[name] = verbs[0], settings
    return entries


def _stage(
    path: Path,
    document: dict[str, Any],
    name: str,
    verb: Work,
    settings: dict[str, Any],
    base: str,
) -> Stage:
    folder = Path(base) / name
    if verb == "fit-path":
        sections = _merged(without_path(document), {"run": {"dir": str(folder)}})
        return Stage(name, verb, _filled(sections, base), folder, path, asked=_filled(settings, base))
    if verb == "train":
        settings = _merged(_merged(document, settings), {"run": {"dir": str(folder)}})
    return Stage(name, verb, _filled(settings, base), folder, path)


def _merged(document: Any, changes: Any) -> Any:
    """A document with some values changed; a section of another kind replaces the one before."""
    if not isinstance(document, dict) or not isinstance(changes, dict):
        return changes
    if "kind" in changes and changes["kind"] != document.get("kind"):
        return changes
    changed = {key: _merged(document[key], value) if key in document else value for key, value in changes.items()}
    return {**document, **changed}


def _filled(value: Any, base: str) -> Any:
    """A value with the folder of all stages in place of `{run.dir}`."""
    match value:
        case str():
            return value.replace(BASE, base)
        case dict():
            return {key: _filled(inner, base) for key, inner in value.items()}
        case list():
            return [_filled(inner, base) for inner in value]
    return value


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
