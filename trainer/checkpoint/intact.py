"""The newest intact checkpoint, and the one that a run resumes from."""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from safetensors import SafetensorError

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import identity_of
from trainer.checkpoint.directory import begun_steps, check_possible, complete_steps, step_folder
from trainer.checkpoint.manifest import NAME, REMEDY, Manifest
from trainer.config.run import RunConfig
from trainer.model.foreign import is_foreign
from trainer.model.values import ROUTERS
from trainer.model.weight_files import EXPORTED, WEIGHTS, belongs_to, index_of

R = TypeVar("R")
ATTEMPTS = 10
"""Checkpoints that may be pruned by a run, one after the other, while another process wants to read one."""


def newest_apparently_intact(root: Path, *, allow_rng_loss: bool, read_bytes: int = 0) -> tuple[Path | None, list[str]]:
    """Finds the newest checkpoint whose file lengths are right, and whose smallest files have the right checksums.

    Checksums are verified for at most `read_bytes` of files. Returns the checkpoint, None if no save has ever ended,
    and a line on the fault of each newer one.
    """
    needed = _needed(allow_rng_loss)

    def fault(folder: Path) -> str | None:
        problem = _fault(folder, needed, content=False)
        if problem is None and read_bytes:
            read = Manifest.read(folder).smallest(read_bytes)
            problem = _fault(folder, lambda name: needed(name) and name in read, content=True)
        return problem

    return _newest(root, begun_steps(root), fault)


def newest_intact_collective(root: Path, *, allow_rng_loss: bool) -> Path | None:
    """The newest intact checkpoint, the same on every rank; None if no save has ever ended; collective."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    needed = _needed(allow_rng_loss)

    def fault(folder: Path) -> str | None:
        faults: list[str | None] = [None] * world_size
        own = _fault(folder, lambda name: needed(name) and _reader(name, world_size) == rank, content=True)
        dist.all_gather_object(faults, own)
        return next(filter(None, faults), None)

    seen = [begun_steps(root)]
    dist.broadcast_object_list(seen)
    folder, skipped = _newest(root, seen[0], fault)
    if rank == 0:
        _say(skipped)
    return folder


def newest_intact(root: Path, names: Iterable[str]) -> Path:
    """The newest checkpoint whose files `names`, or the parts of these, are intact; checked by this process alone."""
    wanted = [*names]

    def fault(folder: Path) -> str | None:
        return _fault(folder, lambda name: any(belongs_to(name, whole) for whole in wanted), content=True)

    for _ in range(ATTEMPTS):
        seen = begun_steps(root)
        try:
            folder, skipped = _newest(root, seen, fault)
        except Refusal:
            if {*complete_steps(root)} <= {*seen}:
                raise
            continue  # the run has pruned all that were seen, and saved another
        if folder is not None:
            _say(skipped)
            return folder
        if not complete_steps(root):
            break
    raise Refusal(root, "checkpoint", "there is no complete checkpoint", "give the run.dir of a run that has saved one")


def is_pruned(folder: Path) -> bool:
    """Whether a former checkpoint's folder has lost its marker, as when it was deleted."""
    return not (folder / NAME).exists()


def _newest(root: Path, steps: list[int], fault: Callable[[Path], str | None]) -> tuple[Path | None, list[str]]:
    """Returns the newest folder without a fault, and the faults of the newer folders."""
    skipped = []
    for step in reversed(steps):
        folder = step_folder(root, step)
        damage = fault(folder)
        if damage is None:
            return folder, skipped
        if folder.exists():  # a run has pruned it otherwise, which is no damage
            skipped.append(damage)
    complete = complete_steps(root)
    if complete:
        newest = skipped[0].removesuffix(f"; {REMEDY}") if skipped else "it was pruned meanwhile"
        problem = f"none of {len(complete)} is undamaged (the newest: {newest})"
        remedy = f"restore one from a copy; or remove {root} to start anew, or give a new run.dir"
        raise Refusal(root, "checkpoints", problem, remedy)
    return None, skipped


def _fault(folder: Path, wanted: Callable[[str], bool], *, content: bool) -> str | None:
    """Returns the fault of a checkpoint as a line that names folder and file; None if there is none."""
    try:
        Manifest.read(folder).check_files(folder, wanted, content=content)
    except Refusal as error:
        return str(error)
    return None


def _needed(allow_rng_loss: bool) -> Callable[[str], bool]:
    return lambda name: not (allow_rng_loss and name.startswith("ranks/"))


def _reader(name: str, world_size: int) -> int:
    """Returns the rank that verifies a file: by the number in its name, else rank 0."""
    number = re.fullmatch(r"(?:\w+/rank_|ema-)(\d+)(?:-of-\d+)?\.\w+", name)
    return int(number[1]) % world_size if number else 0


def _say(skipped: Iterable[str]) -> None:
    for fault in skipped:
        print(f"skipped: {fault}", file=sys.stderr, flush=True)


def newest_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint of a run whose averaged weights, and the files beside them, are as they were written."""
    check_possible(run_dir / "checkpoints")
    if not run_dir.is_dir():
        problem = "is a file" if run_dir.exists() else "does not exist"
        raise Refusal(run_dir, "run_dir", problem, "give the run.dir of a run that has saved a checkpoint")
    if (run_dir / NAME).exists() and run_dir.parent.name == "checkpoints":
        raise Refusal(run_dir, "run_dir", "is a checkpoint", f"give the folder of its run, {run_dir.parents[1]}")
    inside = sorted(str(root.parent) for root in run_dir.glob("*/checkpoints") if complete_steps(root))
    if inside and not complete_steps(run_dir / "checkpoints"):
        remedy = f"give a run inside that has one: {', '.join(inside)}"
        raise Refusal(run_dir / "checkpoints", "checkpoint", "there is no complete checkpoint", remedy)
    return newest_intact(run_dir / "checkpoints", (WEIGHTS, ROUTERS, "config.yaml", "placement.json"))


def with_newest(run_dir: Path, use: Callable[[Path], R]) -> R:
    """Reads the newest intact checkpoint of a run that may still be training.

    A run that keeps few checkpoints deletes the oldest with each save. If it deletes the one that is being read, `use`
    is called again with the next newest.
    """
    for left in reversed(range(ATTEMPTS)):
        folder = newest_checkpoint(run_dir)
        try:
            return use(folder)
        except (OSError, ValueError, SafetensorError):
            if not left or not is_pruned(folder):
                raise
    raise AssertionError


def weights_file(path: Path) -> Path:
    """The averaged weights that `model.init_from` names.

    Args:
        path: an ``ema.safetensors``, its index where it is in parts, the folder of a run, which stands for its newest
            intact checkpoint, or a folder that the export or the import-weights verb wrote.
    """
    check_possible(path / "checkpoints")
    if (path / "checkpoints").is_dir():
        return newest_checkpoint(path) / WEIGHTS
    if is_foreign(path):
        remedy = f"python -m trainer import-weights {path if path.is_dir() else path.parent} --out DIR, and give DIR"
        raise Refusal(path, "weights", "have the names of another package", remedy)
    exported = path / EXPORTED
    return exported if any(file.exists() for file in (exported, index_of(exported))) else path


def origin(config: RunConfig, *, read_bytes: int = 0) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from: the newest in which lengths and `read_bytes` of content show no damage.

    Ranks may still find damage in the rest. The checkpoint is None if the run starts anew. Also returns a line for each
    newer, damaged checkpoint.
    """
    run, root = config.run, config.run.dir / "checkpoints"
    if run.resume == "never" and complete_steps(root):
        raise ValueError(f"run.dir: {run.dir} already holds checkpoints; choose another, or run.resume=auto")
    folder, skipped = newest_apparently_intact(root, allow_rng_loss=run.allow_rng_loss, read_bytes=read_bytes)
    if folder is not None:
        Manifest.read(folder).check_identity(folder, identity_of(config))
    return folder, skipped
