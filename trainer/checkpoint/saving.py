"""Saving a run, while it waits or in the background."""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from moe.files import replacing
from moe.placement.placement import Placement
from trainer.checkpoint.contents import (
    Migrating,
    Resumable,
    Stateful,
    StatefulOptimizer,
    division_of,
    identity_of,
    packed,
    rank_file,
    rank_state,
    router_state,
)
from trainer.checkpoint.directory import complete_steps, prune, step_folder
from trainer.checkpoint.manifest import FileRecord, Manifest, records
from trainer.checkpoint.model_card import model_card
from trainer.checkpoint.pieces import PieceSavePlanner, pieced
from trainer.checkpoint.placement import placement_now
from trainer.checkpoint.storage import SafetensorsWriter, whole_tensors
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.parallel.state import StatePiece

_Result = TypeVar("_Result")


class SaveError(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


@dataclass(frozen=True)
class _Snapshot:
    """Everything that a checkpoint will hold, as it was after a step.

    Attributes:
        step: optimiser steps done.
        updates: those that changed the weights.
        pieces: of the state of the parameters on this rank.
        own: this rank's own file.
        shared: what every rank knows alike; empty: nothing.
        routers: what they have learned besides their weights.
        placement: where the experts live, None for a dense model.
    """

    step: int
    updates: int
    pieces: list[StatePiece]
    own: bytes
    shared: bytes
    routers: dict[str, Tensor]
    placement: Placement | None


class Checkpointer:
    """Writes a run's checkpoints and keeps the newest of them."""

    def __init__(
        self,
        root: Path,
        config: RunConfig,
        layout: Layout,
        engine: StatefulOptimizer,
        average: Stateful,
        migration: Migrating | None = None,
        shared: Mapping[str, Resumable] | None = None,
    ) -> None:
        """Makes a process group of its own, so that ranks can agree while training goes on; collective.

        Args:
            root: the run's checkpoints folder, on a file system that all ranks share.
            config: the run.
            layout: how it is laid out.
            engine: weights and optimiser state.
            average: moving average of the weights.
            migration: what moves experts in the run, if anything does.
            shared: other parts of the loop that are saved, by name; what they know is the same on every rank.
        """
        self._root, self._config, self._layout = root, config, layout
        self._engine, self._average, self._migration = engine, average, migration
        self._shared = shared or {}
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._background = ThreadPoolExecutor(1) if config.checkpoint.asynchronous else None
        self._writing: Future[None] | None = None

    def save(self, step: int) -> None:
        """Saves everything that the run needs to go on; collective.

        In the background, it waits for the checkpoint before this one and returns when the state has been copied to
        the host.

        Args:
            step: optimiser steps done.

        Raises:
            SaveError: this checkpoint could not be written, or the one before it in the background.
        """
        self.wait()
        snapshot = self._snapshot(step)
        if self._background is None:
            self._write(snapshot)
        else:
            self._writing = self._background.submit(self._write, snapshot)

    def wait(self) -> None:
        """Returns when nothing is being written any more.

        Raises:
            SaveError: what was written in the background could not be.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _snapshot(self, step: int) -> _Snapshot:
        pieces = [*self._engine.state(), *self._average.state()]
        if self._background is not None:
            pieces = [replace(piece, tensor=piece.tensor.to("cpu", copy=True)) for piece in pieces]
        shared = {name: part.state() for name, part in self._shared.items()}
        placement = self._layout.placement
        if placement is not None:
            version = self._migration.version if self._migration else 0
            placement = placement_now(placement, self._engine.slot_to_expert(), version)
        return _Snapshot(
            step=step,
            updates=self._engine.updates,
            pieces=pieces,
            own=packed(rank_state(step, self._migration)),
            shared=packed(shared) if shared else b"",
            routers=router_state(self._engine.module),
            placement=placement,
        )

    def _write(self, snapshot: _Snapshot) -> None:
        folder, rank = step_folder(self._root, snapshot.step), self._group.rank()
        try:
            self._together(lambda: _emptied(folder) if rank == 0 else None)
            writer = SafetensorsWriter(folder / "state", rank)
            dcp.save(
                pieced(snapshot.pieces),
                storage_writer=writer,
                planner=PieceSavePlanner(),
                process_group=self._group,
            )
            by_rank = self._together(lambda: _write_own(folder, writer.path, snapshot.own, rank))
            written = {name: record for of_rank in by_rank for name, record in of_rank.items()}
            self._together(lambda: self._complete(folder, snapshot, written) if rank == 0 else None)
        except (CheckpointException, SaveError) as error:
            if rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
            dist.barrier(self._group)
            raise SaveError(f"{folder}: cannot be saved: {_cause(error)}; {self._remedy(snapshot.step)}") from error

    def _complete(self, folder: Path, snapshot: _Snapshot, written: dict[str, FileRecord]) -> None:
        """Writes what the first rank writes alone, from the files that all have written."""
        average = whole_tensors(folder / "state", "ema")
        with replacing(folder / "ema.safetensors") as temporary:
            save_file(average, temporary, metadata={"step": str(snapshot.step)})
        _write_bytes(folder / "routers.safetensors", save(snapshot.routers))
        _write_bytes(folder / "config.yaml", self._config.to_yaml().encode())
        shapes = [tensor.shape for tensor in average.values()]
        has_routers = self._config.moe is not None
        card = model_card(self._config, snapshot.step, shapes, routers=has_routers, weights="ema.safetensors")
        _write_bytes(folder / "README.md", card.encode())
        if snapshot.shared:
            _write_bytes(folder / "shared.pt", snapshot.shared)
        if snapshot.placement is not None:
            snapshot.placement.write(folder / "placement.json")
        own = [path for path in folder.rglob("*") if path.is_file()]
        files = written | records(folder, (path for path in own if path.relative_to(folder).as_posix() not in written))
        Manifest(
            step=snapshot.step,
            updates=snapshot.updates,
            identity=identity_of(self._config),
            division=division_of(self._config, self._layout),
            files=dict(sorted(files.items())),
        ).write(folder)
        prune(self._root, self._config.checkpoint.keep, snapshot.step)

    def _together(self, act: Callable[[], _Result]) -> list[_Result]:
        """Does something on every rank and returns what came of it, by rank; fails on all if it fails on one."""
        result, complaint = None, None
        try:
            result = act()
        except Exception as error:  # whatever it is, the other ranks must not wait for this one
            complaint = f"rank {self._group.rank()}: {error}"
        answers: list[Any] = [None] * self._group.size()
        dist.all_gather_object(answers, (result, complaint), group=self._group)
        complaints = [complaint for _, complaint in answers if complaint is not None]
        if complaints:
            raise SaveError("; ".join(complaints))
        return [result for result, _ in answers]

    def _remedy(self, step: int) -> str:
        older = [saved for saved in complete_steps(self._root) if saved != step]
        start = f"goes on from step {older[-1]}" if older else "starts anew"
        return f"make room or mend the folder and give the same command again: the run {start}"


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_own(folder: Path, state: Path, own: bytes, rank: int) -> dict[str, FileRecord]:
    """Writes a rank's own file, and says what it and its file of the state are."""
    path = folder / rank_file(rank)
    _write_bytes(path, own)
    return records(folder, (written for written in (path, state) if written.exists()))


def _write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _cause(error: CheckpointException | SaveError) -> str:
    if isinstance(error, SaveError):
        return str(error)
    return "; ".join(f"rank {rank}: {cause[0]}" for rank, cause in sorted(error.failures.items()))
