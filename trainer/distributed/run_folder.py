"""Checks of a run's folder: it can be written, it is the same on all nodes, and one run alone writes to it."""

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netsim.foundation.files import writing
from netsim.foundation.refusal import Refusal
from trainer.distributed.start_store import ARRIVAL_S, PAUSE_S, StartStore

PATIENCE_S = 3.0
"""Time for a network file system to show a file that another node has just made."""
LOCK_PATIENCE_S = 5.0
"""Time for the ranks of an earlier start to end and release the lock."""


def check_writable(folder: Path) -> None:
    """Refuses a folder if no file can be made in it, or in its nearest existing parent. Leaves no file behind."""
    checkpoints = folder / "checkpoints"
    for place in [_existing(folder), *([checkpoints] if checkpoints.is_dir() else [])]:
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            where = "" if place == folder.absolute() else f" in {place}"
            problem = f"cannot be written ({error.strerror}{where})"
            raise Refusal(folder, "run.dir", problem, "choose another folder") from error


@contextmanager
def one_folder(ranks: StartStore, folder: Path) -> Iterator[str | None]:
    """Proves that a folder is the same on all nodes, by a file that rank 0 makes and that is gone afterwards.

    The file is made in the nearest existing parent, so that a refused run makes no folder. Yields the fault on the
    first rank of each other node, and None elsewhere or without a fault. Rank 0's file exists while entered.
    """
    if ranks.nodes == 1 or not ranks.leads:
        yield None
    elif ranks.launch.rank > 0:
        yield _objection(ranks, folder)
    else:
        check_writable(folder)
        place = _existing(folder)
        with tempfile.NamedTemporaryFile(prefix=".flowfabric_", dir=place) as file:
            levels = len(folder.absolute().parts) - len(place.parts)
            leader = {"folder": str(folder), "levels": levels, "name": Path(file.name).name, "place": ranks.place}
            ranks.store.set(f"{ranks.prefix}/folder", json.dumps(leader))
            yield None
            ranks.store.delete_key(f"{ranks.prefix}/folder")  # a store may outlive ranks that are started again


def _objection(ranks: StartStore, folder: Path) -> str | None:
    leader = json.loads(ranks.read(f"{ranks.prefix}/folder", time.monotonic() + ARRIVAL_S))
    if leader["folder"] != str(folder):
        return None  # a difference of settings
    place = [folder.absolute(), *folder.absolute().parents][leader["levels"]]
    until = time.monotonic() + PATIENCE_S
    while not os.path.lexists(place / leader["name"]):
        if time.monotonic() > until:
            shared = "give a folder that all nodes share"
            return f"run.dir: {folder} is another folder on {ranks.place} than on {leader['place']}; {shared}"
        time.sleep(PAUSE_S)
    try:
        check_writable(folder)
    except Refusal as error:
        return str(error)
    return None


def _existing(folder: Path) -> Path:
    """Returns the folder itself or its nearest existing parent, which may be a file."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if os.path.lexists(place))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other run out of a folder, which is made; the system releases the lock however the process ends.

    Raises:
        Refusal: it cannot be written, or another run still has it after :data:`LOCK_PATIENCE_S`.
    """
    with writing(folder / ".lock"):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def _take(handle: int, folder: Path) -> None:
    if _taken(handle):
        return
    print(
        f"{folder}: in use; waits up to {LOCK_PATIENCE_S:g} s for an earlier start to end", file=sys.stderr, flush=True
    )
    until = time.monotonic() + LOCK_PATIENCE_S
    while time.monotonic() < until:
        time.sleep(PAUSE_S)
        if _taken(handle):
            return
    raise Refusal(folder, "run.dir", "is in use by another run", "wait for it, or choose another folder")


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
