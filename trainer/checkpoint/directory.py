"""Checkpoint folders: named by step, complete or not there.

checkpoints/step_00000300/
    state/                   weights, moments and averages of every parameter as rectangles of whole tensors
    ranks/rank_00000.pt ...  state that only that rank has: tensors and plain values
    shared.pt                state that is the same on every rank, such as the guard's statistics of steps
    ema.safetensors          moving average of every parameter by its logical name; where that is large, in parts
                             ema-00001-of-00008.safetensors ... beside ema.safetensors.index.json
    routers.safetensors      buffers that routers learn besides their weights
    config.yaml, placement.json
    README.md                a description of the averages, and how to load them
    COMPLETE                 written last: settings that a resuming run must share, and a checksum of every file
"""

import errno
import re
import shutil
from pathlib import Path

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.manifest import NAME


def check_possible(folder: Path) -> None:
    """Refuses a folder whose name is too long for any file system."""
    try:
        folder.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Refusal(folder, "folder", "its name is too long", "give a shorter one") from error


def step_folder(root: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimiser steps."""
    return root / f"step_{step:08d}"


def step_of(folder: Path | None) -> int:
    """Steps done at the checkpoint in a folder; 0 where there is none."""
    return 0 if folder is None else int(folder.name.removeprefix("step_"))


def begun_steps(root: Path) -> list[int]:
    """Steps of the checkpoints under a folder, complete or not, in rising order."""
    return sorted(_step_folders(root))


def complete_steps(root: Path) -> list[int]:
    """Steps of the complete checkpoints under a folder, in rising order."""
    return sorted(step for step, folder in _step_folders(root).items() if _is_complete(folder))


def prune(root: Path, keep: int, newest: int) -> list[str]:
    """Deletes all but the `keep` newest complete checkpoints up to step `newest`; a line for each failure.

    Later ones and incomplete ones go too: a broken save has left them, or the run went on from before them because they
    were damaged. Symbolic links are left alone and not counted: they lead to the user's files.
    """
    folders = {step: folder for step, folder in sorted(_step_folders(root).items()) if not folder.is_symlink()}
    kept = [step for step, folder in folders.items() if step <= newest and _is_complete(folder)][-keep:]
    left = []
    for step, folder in folders.items():
        try:
            if step not in kept:
                delete(folder)
        except OSError as error:
            left.append(f"{folder}: an older checkpoint cannot be deleted ({error.strerror}); delete it yourself")
    return left


def delete(folder: Path) -> None:
    """Deletes a checkpoint but no symbolic link; the marker goes first, so that a partial deletion shows."""
    if folder.is_symlink():
        raise Refusal(folder, "checkpoint", "is a symbolic link", "remove the link")
    (folder / NAME).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _is_complete(folder: Path) -> bool:
    try:
        return (folder / NAME).exists()
    except OSError:  # a folder that may not be looked into
        return False


def _step_folders(root: Path) -> dict[int, Path]:
    """Checkpoint folders by step; a copy under another name, such as step_00000300_good, is the user's own."""
    return {step_of(path): path for path in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)}
