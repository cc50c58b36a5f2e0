"""Saving a run, in the background or while training waits."""

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor

from moe.placement.placement import Placement
from netsim.foundation.files import flush, write_bytes
from netsim.foundation.refusal import Failure, Refusal
from trainer.checkpoint.contents import (
    Migrating,
    Resumable,
    Stateful,
    StatefulOptimizer,
    division_of,
    identity_of,
    packed,
    placement_now,
    rank_file,
    rank_state,
    router_state,
)
from trainer.checkpoint.directory import complete_steps, delete, prune, step_folder
from trainer.checkpoint.manifest import FileRecord, Manifest, records
from trainer.checkpoint.model_card import model_card
from trainer.checkpoint.storage import rank_path, write_index, write_pieces
from trainer.checkpoint.writers import RankError, Result, share, together, write_averages
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data.text.tokens import TOKENIZER
from trainer.model.parallel.state import StatePiece
from trainer.model.weight_files import WEIGHTS, belongs_to, index_of

_BESIDE = ("config.yaml", "metrics.jsonl", "bad_samples.txt")
"""What a run writes beside its checkpoints, and is on the disk when a checkpoint of it is."""


class SaveError(Failure):
    """A checkpoint could not be written; those before it are as they were."""


@dataclass(frozen=True)
class _Snapshot:
    """All content of a checkpoint, as it was after step `step`."""

    step: int
    updates: int
    pieces: list[StatePiece]
    average_elements: int
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
        tokenizer: bytes | None = None,
    ) -> None:
        """Makes a process group of its own, so that ranks can agree during training; collective.

        Args:
            root: the run's checkpoints folder, on a file system that all ranks share.
            shared: other parts of the loop that are saved, by name; their state is the same on every rank.
            tokenizer: content of the tokenizer.json that makes text of what the network writes; None if absent.
        """
        self._root, self._config, self._layout = root, config, layout
        self._engine, self._average, self._migration = engine, average, migration
        self._shared, self._tokenizer = shared or {}, tokenizer
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._background = ThreadPoolExecutor(1) if config.checkpoint.asynchronous else None
        self._writing: Future[None] | None = None
        self._warned: set[str] = set()

    def save(self, step: int) -> None:
        """Saves the complete state that a resumed run needs; collective.

        In background mode it waits for the checkpoint before this one and returns when the state is copied to
        the host.
        """
        self.wait()
        snapshot = self._snapshot(step)
        if self._background is None:
            self._write(snapshot)
        else:
            self._writing = self._background.submit(self._write, snapshot)

    def wait(self) -> None:
        """Waits until no checkpoint is being written; raises the SaveError of a save in the background."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _snapshot(self, step: int) -> _Snapshot:
        pieces, average_elements = share([*self._engine.state(), *self._average.state()], self._group)
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
            average_elements=average_elements,
            own=packed(rank_state(step, self._migration)),
            shared=packed(shared) if shared else b"",
            routers=router_state(self._engine.module),
            placement=placement,
        )

    def _write(self, snapshot: _Snapshot) -> None:
        folder, rank = step_folder(self._root, snapshot.step), self._group.rank()
        step, elements, num_ranks = snapshot.step, snapshot.average_elements, self._group.size()
        try:
            self._together(lambda: _emptied(folder) if rank == 0 else None)
            own = self._together(lambda: _write_own(folder, snapshot, rank, num_ranks))
            averages = self._together(lambda: write_averages(folder, elements, step, rank, num_ranks))
            written = {name: record for of_rank in (*own, *averages) for name, record in of_rank.items()}
            self._together(lambda: _flush(folder, own[rank] | averages[rank]))
            self._together(lambda: self._complete(folder, snapshot, written) if rank == 0 else None)
        except RankError as error:
            if rank == 0:
                with suppress(OSError, Refusal):
                    delete(folder)
            dist.barrier(self._group)
            raise SaveError(f"{folder}: cannot be saved: {error}; {self._remedy(snapshot.step)}") from error
        if rank == 0:
            self._prune(snapshot.step)

    def _prune(self, step: int) -> None:
        """Deletes older checkpoints, now that a newer one is on the disk; prints each failure once."""
        for line in prune(self._root, self._config.checkpoint.keep, step):
            if line not in self._warned:
                print(line, file=sys.stderr, flush=True)
            self._warned.add(line)

    def _complete(self, folder: Path, snapshot: _Snapshot, written: dict[str, FileRecord]) -> None:
        """Writes the small files that the first rank writes alone, and declares the checkpoint complete."""
        parts = [name for name in written if belongs_to(name, WEIGHTS)]
        card = model_card(
            self._config,
            snapshot.step,
            snapshot.average_elements,
            routers=self._config.moe is not None,
            weights=WEIGHTS if len(parts) == 1 else index_of(Path(WEIGHTS)).name,
            parts=len(parts) - 1,
        )
        write_bytes(folder / "routers.safetensors", save(snapshot.routers))
        write_bytes(folder / "config.yaml", self._config.to_yaml().encode())
        write_bytes(folder / "README.md", card.encode())
        if self._tokenizer is not None:
            write_bytes(folder / TOKENIZER, self._tokenizer)
        if snapshot.shared:
            write_bytes(folder / "shared.pt", snapshot.shared)
        if snapshot.placement is not None:
            snapshot.placement.write(folder / "placement.json")
        paths = [path for path in folder.rglob("*") if path.is_file()]
        own = records(folder, (path for path in paths if path.relative_to(folder).as_posix() not in written))
        _flush(folder, own)
        run_dir = self._root.parent
        flush([*(path for name in _BESIDE if (path := run_dir / name).exists()), run_dir])
        Manifest(
            step=snapshot.step,
            updates=snapshot.updates,
            identity=identity_of(self._config),
            division=division_of(self._config, self._layout),
            files=dict(sorted({**written, **own}.items())),
        ).write(folder)
        flush([self._root, run_dir])

    def _together(self, act: Callable[[], Result]) -> list[Result]:
        return together(act, self._group)

    def _remedy(self, step: int) -> str:
        older = [saved for saved in complete_steps(self._root) if saved != step]
        start = f"resumes from step {older[-1]}" if older else "starts anew"
        return f"make room or correct the folder and give the same command again: the run {start}"


def _emptied(folder: Path) -> None:
    with suppress(FileNotFoundError):
        delete(folder)
    folder.mkdir(parents=True)


def _flush(folder: Path, names: Iterable[str]) -> None:
    """Flushes files of a checkpoint, and then the folders that name them."""
    paths = [folder / name for name in names]
    flush(paths)
    flush(sorted({path.parent for path in paths} | {folder}))


def _write_own(folder: Path, snapshot: _Snapshot, rank: int, num_ranks: int) -> dict[str, FileRecord]:
    """Writes this rank's files, and returns their records by path in the folder."""
    state, own = folder / "state", folder / rank_file(rank)
    write_bytes(own, snapshot.own)
    written = {rank_path(state, rank): write_pieces(state, rank, snapshot.pieces)}
    if rank == 0:
        write_index(state, num_ranks)
    return records(folder, [own]) | {path.relative_to(folder).as_posix(): record for path, record in written.items()}
