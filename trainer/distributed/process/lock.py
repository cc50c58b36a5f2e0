"""One writer to a run's folder."""

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netsim.foundation.files import writing
from netsim.foundation.refusal import Refusal

PATIENCE_S = 5.0
"""For the ranks of an earlier start, which may be about to end."""
PAUSE_S = 0.1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other run out of a folder, which is made; the system releases the lock however the process ends.

    Raises:
        Refusal: it cannot be written, or another run still has it after :data:`PATIENCE_S`.
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
    print(f"{folder}: in use; waits up to {PATIENCE_S:g} s for an earlier start to end", file=sys.stderr, flush=True)
    until = time.monotonic() + PATIENCE_S
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
