"""What a power cut cannot take: a checkpoint is on the disk before it is complete, and older ones go only then."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.ranks import run_ranks
from tests.trainer.checkpoint.test_checkpoint_damage import checkpoint
from tests.trainer.training.migration.migrated import Run
from tests.trainer.training.migration.migrated import configuration as with_experts
from trainer.checkpoint.directory import complete_steps, prune, step_folder
from trainer.checkpoint.intact import newest_apparently_intact
from trainer.checkpoint.manifest import Manifest
from trainer.config.run import RunConfig

RANKS, OLDER, LINKED, STEP = 2, 1, 2, 5
PROBLEM = "an older checkpoint cannot be deleted (Operation not permitted); delete it yourself"


class Call(NamedTuple):
    """A call to the system, and when it returned on the clock that all processes of a machine share."""

    when: int
    name: str
    path: Path


def configuration(**checkpoint: Any) -> RunConfig:
    document = with_experts().model_dump() | {"moe": None, "parallel": {}, "checkpoint": {"keep": 1, **checkpoint}}
    return RunConfig.model_validate(document)


@contextmanager
def listened(refused: Path | None = None) -> Iterator[list[Call]]:
    """What is flushed, renamed and removed; `refused` cannot be removed."""
    calls: list[Call] = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def heard(name: str, path: Any) -> None:
        calls.append(Call(time.monotonic_ns(), name, Path(os.path.realpath(path))))

    def flushed(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        fsync(handle)
        heard("flushed", path)

    def renamed(source: Any, target: Any) -> None:
        replace(source, target)
        heard("renamed", target)

    def removed(path: Any, **options: Any) -> None:
        if refused is not None and Path(path) == refused:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **options)
        if not options:  # inside a folder that goes
            heard("removed", path)

    os.fsync, os.replace, os.unlink = flushed, renamed, removed
    yield calls
    os.fsync, os.replace, os.unlink = fsync, replace, unlink


def saved(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """A save beside an older checkpoint, while the run waits and in the background; one that cannot be deleted."""
    from trainer.checkpoint.saving import Checkpointer
    from trainer.distributed.groups import divide_ranks

    divide_ranks(1, 1)
    found: dict[str, Any] = {}
    for name, asynchronous in (("waits", False), ("background", True), ("stays", False)):
        config, checkpoints = configuration(asynchronous=asynchronous), root / name / "checkpoints"
        run = Run(config, world_size)
        if rank == 0:
            checkpoint(checkpoints, OLDER)
            (root / name / "metrics.jsonl").write_text('{"step": 5}\n')
        saver = Checkpointer(checkpoints, config, run.layout, run.engine, run.average)
        refused = step_folder(checkpoints, OLDER) / "COMPLETE"
        with listened(refused if name == "stays" else None) as calls, redirect_stderr(StringIO()) as said:
            saver.save(STEP)
            saver.wait()
            if name == "stays":
                saver.save(STEP + 1)
        found[name], found["said"] = calls, said.getvalue()
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flushed").resolve()


@pytest.fixture(scope="module")
def calls(root: Path) -> list[dict[str, Any]]:
    return run_ranks(saved, RANKS, root)


def when(calls: list[Call], name: str, path: Path) -> int:
    """When something first happened to a path."""
    return min(call.when for call in calls if call[1:] == (name, path))


@pytest.mark.parametrize("case", ["waits", "background"])
def test_files_then_folders_then_the_marker_then_its_parents_and_only_then_the_older_one_goes(
    root: Path, calls: list[dict[str, Any]], case: str
) -> None:
    run, of_rank = root / case, [rank[case] for rank in calls]
    checkpoints = run / "checkpoints"
    folder = step_folder(checkpoints, STEP)
    first, every = of_rank[0], [call for rank in of_rank for call in rank]
    complete = when(first, "renamed", folder / "COMPLETE")
    for name in Manifest.read(folder).files:
        path = folder / name
        content = when(every, "flushed", path)
        entry = max(call.when for call in every if call[1:] == ("flushed", path.parent) and call.when < complete)
        assert when(every, "renamed", path) < content < entry < complete, name
    for rank, own in enumerate(of_rank):  # each what it wrote itself: elsewhere it may be in no memory
        assert when(own, "flushed", folder / "state" / f"rank_{rank:05d}.safetensors")
        assert when(own, "flushed", folder / "ranks" / f"rank_{rank:05d}.pt")
    assert when(first, "flushed", run / "metrics.jsonl") < complete, "the figures of the steps that it stands for"
    marker = [call.when for call in first if call.name == "flushed" and call.path.name.startswith(".COMPLETE.")]
    older = when(first, "removed", step_folder(checkpoints, OLDER) / "COMPLETE")
    assert [when for when in marker if when < complete], "what is renamed has content on the disk"
    for parent in (folder, checkpoints):
        assert [call for call in first if call[1:] == ("flushed", parent) and complete < call.when < older], parent
    assert complete_steps(checkpoints) == [STEP]


def test_an_older_checkpoint_that_cannot_be_deleted_stays_and_costs_a_line(
    root: Path, calls: list[dict[str, Any]]
) -> None:
    checkpoints = root / "stays" / "checkpoints"
    assert calls[0]["said"] == f"{step_folder(checkpoints, OLDER)}: {PROBLEM}\n", "once, and not at each save"
    assert complete_steps(checkpoints) == [OLDER, STEP + 1]
    newest, damaged = newest_apparently_intact(checkpoints, allow_rng_loss=False)
    assert (newest, damaged) == (step_folder(checkpoints, STEP + 1), [])


def test_each_that_cannot_be_deleted_is_named_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    unlink = os.unlink

    def refusing(path: Any, **options: Any) -> None:
        if Path(path) == step_folder(tmp_path, 2) / "COMPLETE":
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refusing)
    assert prune(tmp_path, 1, 4) == [f"{step_folder(tmp_path, 2)}: {PROBLEM}"]
    assert complete_steps(tmp_path) == [2, 4]
    monkeypatch.undo()
    assert prune(tmp_path, 1, 4) == []
    assert complete_steps(tmp_path) == [4]


def test_a_link_to_an_archive_is_left_alone_and_not_counted(tmp_path: Path) -> None:
    root, archive = tmp_path / "checkpoints", checkpoint(tmp_path / "archive", LINKED)
    for step in (1, 3, 4):
        checkpoint(root, step)
    step_folder(root, LINKED).symlink_to(archive)
    assert prune(root, 2, 4) == []
    assert complete_steps(root) == [LINKED, 3, 4]
    assert (archive / "COMPLETE").exists()
    assert prune(root, 1, 4) == []
    assert complete_steps(root) == [LINKED, 4]
