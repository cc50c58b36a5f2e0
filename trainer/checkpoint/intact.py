"""Which checkpoint to go on from: the newest intact one, all of whose files are as they were written.

A damaged checkpoint is named on stderr, and an older one is taken.

Each rank of a run verifies the checksums of the files that bear its number, and the first rank those of all others:
together they read a checkpoint once. Whoever uses the averaged weights alone verifies only their files.
"""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch.distributed as dist

from moe.files import FileError
from trainer.checkpoint.directory import begun_steps, check_possible, complete_steps, step_folder
from trainer.checkpoint.manifest import REMEDY, Manifest
from trainer.model.weight_files import WEIGHTS, belongs_to
from trainer.model.weights import ROUTERS


def newest_apparently_intact(root: Path, *, allow_rng_loss: bool, read_bytes: int = 0) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that seems intact: its files have the right length, and the smallest the right content.

    Args:
        root: folder of the checkpoints.
        allow_rng_loss: do without the files of single ranks.
        read_bytes: how much of a checkpoint may be read; the files of :meth:`Manifest.smallest` are.

    Returns:
        Its folder, or None if no save has ever ended; and a line for each newer one, which says what is wrong with it.

    Raises:
        FileError: there are complete checkpoints, and none seems intact.
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
    """The newest intact checkpoint, the same on every rank; collective.

    Args:
        root: folder of the checkpoints, on a file system that all ranks share.
        allow_rng_loss: do without the files of single ranks.

    Returns:
        Its folder, or None if no save has ever ended.

    Raises:
        FileError: there are complete checkpoints, and none is intact.
    """
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
    """The newest checkpoint of which some files are intact, as this process alone finds it.

    Args:
        root: folder of the checkpoints.
        names: those files, where the checkpoint has them; a file that may be in parts stands for them, too.

    Raises:
        FileError: there is none.
    """
    wanted = [*names]

    def fault(folder: Path) -> str | None:
        return _fault(folder, lambda name: any(belongs_to(name, whole) for whole in wanted), content=True)

    folder, skipped = _newest(root, begun_steps(root), fault)
    if folder is None:
        raise FileError(
            root, "checkpoint", "there is no complete checkpoint", "give the run.dir of a run that has saved one"
        )
    _say(skipped)
    return folder


def _newest(root: Path, steps: list[int], fault: Callable[[Path], str | None]) -> tuple[Path | None, list[str]]:
    """The newest folder without a fault, and the faults of those that are newer."""
    skipped = []
    for step in reversed(steps):
        folder = step_folder(root, step)
        damage = fault(folder)
        if damage is None:
            return folder, skipped
        skipped.append(damage)
    complete = complete_steps(root)
    if complete:
        problem = f"none of {len(complete)} is undamaged (the newest: {skipped[0].removesuffix(f'; {REMEDY}')})"
        remedy = f"restore one from a copy; or remove {root} to start anew, or give a new run.dir"
        raise FileError(root, "checkpoints", problem, remedy)
    return None, skipped


def _fault(folder: Path, wanted: Callable[[str], bool], *, content: bool) -> str | None:
    """What is wrong with a checkpoint, as a line that names folder and file."""
    try:
        Manifest.read(folder).check_files(folder, wanted, content=content)
    except FileError as error:
        return str(error)
    return None


def _needed(allow_rng_loss: bool) -> Callable[[str], bool]:
    return lambda name: not (allow_rng_loss and name.startswith("ranks/"))


def _reader(name: str, world_size: int) -> int:
    """The rank that verifies a file."""
    number = re.fullmatch(r"(?:\w+/rank_|ema-)(\d+)(?:-of-\d+)?\.\w+", name)
    return int(number[1]) % world_size if number else 0


def _say(skipped: Iterable[str]) -> None:
    for fault in skipped:
        print(f"skipped: {fault}", file=sys.stderr, flush=True)


def newest_checkpoint(run_dir: Path) -> Path:
    """The folder of the newest checkpoint whose averaged weights, and what belongs to them, are as they were written.

    Args:
        run_dir: folder of the run.

    Raises:
        FileError: there is none.
    """
    check_possible(run_dir / "checkpoints")
    inside = sorted(str(root.parent) for root in run_dir.glob("*/checkpoints") if complete_steps(root))
    if inside and not complete_steps(run_dir / "checkpoints"):
        remedy = f"give a run inside that has one: {', '.join(inside)}"
        raise FileError(run_dir / "checkpoints", "checkpoint", "there is no complete checkpoint", remedy)
    return newest_intact(run_dir / "checkpoints", (WEIGHTS, ROUTERS, "config.yaml", "placement.json"))


def weights_file(path: Path) -> Path:
    """The averaged weights that `model.init_from` names.

    Args:
        path: an ``ema.safetensors``, its index where it is in parts, or the folder of a run, which stands for its
            newest intact checkpoint.

    Raises:
        FileError: the run has no intact checkpoint, or no file system can hold the path.
    """
    check_possible(path / "checkpoints")
    return newest_checkpoint(path) / WEIGHTS if (path / "checkpoints").is_dir() else path
