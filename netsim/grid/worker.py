"""What every worker process of this machine has in common: it leaves interrupts to its parent, and ends with it."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from threading import Thread

_PR_SET_PDEATHSIG = 1


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes that are started in this block never receive an interrupt; one of this process waits for its end."""
    resource_tracker.ensure_running()  # which would let interrupts through again if it began in the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Ends this process when its parent does, however that ends: at once on Linux, elsewhere when Python runs again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)
