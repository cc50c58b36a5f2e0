"""One layout of a scenario for all processes of this machine: its arrays lie in memory that they share."""

import pickle
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

from netsim.bound import Bound
from netsim.prepare import LaidOut, Prepared, prepare
from netsim.scenario import Scenario

_ALIGNMENT = 64


class Handle(NamedTuple):
    """What another process needs to take part.

    Args:
        name: Of the shared memory.
        body: The layout and its bound without their arrays.
        places: Begin and end of each array in the shared memory.
    """

    name: str
    body: bytes
    places: tuple[tuple[int, int], ...]


class SharedLayout:
    """The layout of a prepared scenario in shared memory, until `close`.

    Args:
        prepared: The prepared scenario.
    """

    def __init__(self, prepared: Prepared) -> None:
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps((prepared.laid_out, prepared.bound), protocol=5, buffer_callback=buffers.append)
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

    def close(self) -> None:
        """Frees the memory, once no process uses it any more."""
        self._memory.close()
        self._memory.unlink()


_attached: list[SharedMemory] = []
"""Kept open, since arrays of this process lie in it."""


def prepare_shared(scenario: Scenario, source: str, handle: Handle) -> Prepared:
    """The prepared scenario, whose tasks and bound another process has laid out.

    Args:
        scenario: The scenario.
        source: Its name in messages.
        handle: Of its layout.
    """
    memory = SharedMemory(handle.name)
    _attached.append(memory)
    room = memory.buf
    assert room is not None, "just opened"
    shared: tuple[LaidOut, Bound] = pickle.loads(handle.body, buffers=[room[begin:end] for begin, end in handle.places])
    laid_out, bound = shared
    prepared = prepare(scenario, source, laid_out)
    prepared.bound = bound
    return prepared
