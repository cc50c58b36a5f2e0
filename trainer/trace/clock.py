"""Clocks of a recorder: when a rank's compute pauses and resumes, in time of the host or of its device.

A device executes enqueued work later, in streams. There a mark is an event, whose time is read after the step.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter_ns
from typing import Any

import torch

Mark = Any
"""A point in time within a stream; only its clock can tell how far apart two marks are."""


Joining = Callable[[Hashable, int], AbstractContextManager[None]]
"""Makes the context of a wait of compute for a stream; the wait covers only the step's first so many collectives."""


class Clock:
    """Host time within one step; compute and collectives end when their calls, or waits for them, return.

    Only :meth:`settle` blocks.

    Attributes:
        name: name of the clock in the header of a trace.
    """

    name = "host"

    def watching(self, reached: Callable[[], int], joining: Joining) -> AbstractContextManager[None]:  # noqa: ARG002  a host has no streams
        """While entered, the stream current at entry counts as the compute stream.

        Args:
            reached: returns the number of collectives issued so far in the step.
            joining: makes the context in which compute waits for another stream.
        """
        return nullcontext()

    def mark(self) -> Mark:
        """A mark at this point of the compute stream."""
        return perf_counter_ns()

    def mark_end(self) -> Mark:
        """A mark in the current stream, which has just been made to wait for a collective."""
        return perf_counter_ns()

    def beside(self) -> Hashable | None:
        """The current stream if it is not the compute stream, so that compute continues meanwhile; else None."""
        return None

    def settle(self) -> None:
        """Blocks until all marks have been reached."""

    def between_ns(self, earlier: Mark, later: Mark) -> int:
        """Time from one mark to another in ns; 0 if they were reached in the opposite order."""
        return max(0, later - earlier)

    def forget(self) -> None:
        """Releases all marks."""


class DeviceClock(Clock):
    """Device time, measured by events in the device's streams.

    Waits of compute for another stream are noticed through Python calls that wait for an event or synchronize a stream;
    waits in C++ are not.

    Args:
        runtime: torch's module of the device, such as ``torch.cuda``: ``Event``, ``Stream``, ``current_stream`` and
            ``synchronize``.
    """

    name = "device"

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._record = runtime.Event.record
        self._events: list[Any] = []
        self._used = 0
        self._compute: Any = None
        self._points: dict[int, tuple[Any, Any, int]] = {}

    @contextmanager
    def watching(self, reached: Callable[[], int], joining: Joining) -> Iterator[None]:
        self._compute = self._runtime.current_stream()

        def recorded(event: Any, stream: Any = None) -> AbstractContextManager[None]:
            self._points[id(event)] = event, stream or self._runtime.current_stream(), reached()
            return nullcontext()

        def held(event: Any) -> AbstractContextManager[None]:
            _, stream, number = self._points.get(id(event), (None, None, 0))
            return joining(stream, number)

        def waited(event: Any, stream: Any = None) -> AbstractContextManager[None]:
            own = (stream or self._runtime.current_stream()) == self._compute
            return held(event) if own else nullcontext()

        def emptied(stream: Any) -> AbstractContextManager[None]:
            return joining(stream, reached())

        with (
            _seen(self._runtime.Event, "record", recorded),
            _seen(self._runtime.Event, "wait", waited),
            _seen(self._runtime.Event, "synchronize", held),
            _seen(self._runtime.Stream, "synchronize", emptied),
        ):
            yield

    def mark(self) -> Mark:
        return self._event(self._compute)

    def mark_end(self) -> Mark:
        return self._event(self._runtime.current_stream())

    def beside(self) -> Hashable | None:
        in_use = self._runtime.current_stream()
        return None if in_use == self._compute else in_use

    def settle(self) -> None:
        self._runtime.synchronize()

    def between_ns(self, earlier: Mark, later: Mark) -> int:
        return max(0, round(earlier.elapsed_time(later) * 1e6))

    def forget(self) -> None:
        self._used = 0
        self._points.clear()

    def _event(self, stream: Any) -> Any:
        if self._used == len(self._events):
            self._events.append(self._runtime.Event(enable_timing=True))
        event = self._events[self._used]
        self._used += 1
        self._record(event, stream)
        return event


def clock_of(device: torch.device) -> Clock:
    return Clock() if device.type == "cpu" else DeviceClock(torch.get_device_module(device))


@contextmanager
def _seen(kind: Any, method: str, around: Callable[..., AbstractContextManager[None]]) -> Iterator[None]:
    """While entered, each call of a class's method runs within the context that `around` makes of its arguments."""
    original = getattr(kind, method)

    def seen(*args: Any, **kwargs: Any) -> Any:
        with around(*args, **kwargs):
            return original(*args, **kwargs)

    setattr(kind, method, seen)
    try:
        yield
    finally:
        setattr(kind, method, original)
