"""Objects in memory that all processes of this machine share: their arrays are there once."""

import pickle
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

_ALIGNMENT = 64


class Handle(NamedTuple):
    """Name of shared memory, the object without its arrays, and begin and end of each array."""

    name: str
    body: bytes
    places: tuple[tuple[int, int], ...]


class Shared:
    """An object that can be pickled in shared memory, its arrays copied, until `close`."""

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
        """Leaves the memory to those who have the handle, one of whom frees it."""
        self._memory.close()

    def close(self) -> None:
        """Frees the memory, once no process uses it any more."""
        self._memory.close()
        self._memory.unlink()


_attached: list[SharedMemory] = []
"""Memory in which arrays of this process lie, or lay."""


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
    """Lets go of memory in which no array of this process lies any more."""
    for memory in [*_attached]:
        try:
            memory.close()
        except BufferError:
            continue
        _attached.remove(memory)
