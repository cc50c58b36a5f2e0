"""Worker processes of this machine: they leave interrupts to their parent, end with it, and share arrays in memory."""

import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from multiprocessing.shared_memory import SharedMemory
from threading import Thread
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Blocks interrupts for processes started in this block; an interrupt of this process waits for its end."""
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


_ALIGNMENT = 64


class Handle(NamedTuple):
    """Name of shared memory, the pickled object without its arrays, and begin and end of each array in bytes."""

    name: str
    body: bytes
    places: tuple[tuple[int, int], ...]


class Shared:
    """A picklable object, whose arrays are copied into shared memory until `close`."""

    def __init__(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        places, end = [], 0
        for buffer in buffers:
            begin = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = begin + buffer.raw().nbytes
            places.append((begin, end))
        self._memory = SharedMemory(create=True, size=max(end, 1))
        room = self._memory.buf
        assert room is not None, "just created"
        for buffer, (begin, end) in zip(buffers, places, strict=True):
            room[begin:end] = buffer.raw()
        self.handle = Handle(self._memory.name, body, tuple(places))

    def leave(self) -> None:
        """Detaches from the memory; a process with the handle must free it."""
        self._memory.close()

    def close(self) -> None:
        """Frees the memory, once no process uses it any more."""
        self._memory.close()
        self._memory.unlink()


_attached: list[SharedMemory] = []
"""Shared memory that holds, or held, arrays of this process."""


def attached(handle: Handle) -> Any:
    """The object of a handle; its arrays lie in the shared memory."""
    _let_go()
    memory = SharedMemory(handle.name)
    _attached.append(memory)
    room = memory.buf
    assert room is not None, "just opened"
    return pickle.loads(handle.body, buffers=[room[begin:end] for begin, end in handle.places])


def free(handle: Handle) -> None:
    """Frees the memory of a handle, once no process uses it any more."""
    memory = SharedMemory(handle.name)
    memory.close()
    memory.unlink()


def _let_go() -> None:
    """Detaches from shared memory in which no array of this process lies any more."""
    for memory in [*_attached]:
        try:
            memory.close()
        except BufferError:
            continue
        _attached.remove(memory)
