"""Clocks of a recorder: when the compute of a rank pauses and resumes, in the time of the host or of its device.

A device executes the work that the host enqueued, later and in streams. There a mark is an event, whose time is read
once, after the step.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter_ns
from typing import Any

import torch

Mark = Any
"""A place in the program, of which its clock knows when it came to pass."""


Joining = Callable[[Hashable, int], AbstractContextManager[None]]
"""Is entered while compute is made to wait for a stream, for the first so many of all collectives of the step alone."""


class Clock:
    """Time of the host within one step; compute and collectives end when their calls, or waits for them, return.

    Nothing but :meth:`settle` waits.

    Attributes:
        name: name of the clock in the header of a trace.
    """

    name = "host"

    def watching(self, reached: Callable[[], int], joining: Joining) -> AbstractContextManager[None]:  # noqa: ARG002  a host has no streams
        """While entered, the stream in use at the beginning counts as the compute stream.

        Args:
            reached: returns the number of collectives issued so far in the step.
            joining: makes a context that is entered for each wait of the compute stream for another.
        """
        return nullcontext()

    def mark(self) -> Mark:
        """A mark at this point of the compute stream."""
        return perf_counter_ns()

    def mark_end(self) -> Mark:
        """A mark in the stream in use, which has just been made to wait for a collective."""
        return perf_counter_ns()

    def beside(self) -> Hashable | None:
        """The stream in use if it is not the compute stream, so that compute continues meanwhile; else None."""
        return None

    def settle(self) -> None:
        """Waits until all marks have been reached."""

    def between_ns(self, earlier: Mark, later: Mark) -> int:
        """Time from one mark to another in ns; 0 if they were reached in the opposite order."""
        return max(0, later - earlier)

    def forget(self) -> None:
        """Releases all marks so far."""


class DeviceClock(Clock):
    """The time of a device, by events in its streams.

    Waits for another stream are seen if compute waits for an event of that stream, or the host for such an event or the
    stream. Waits in C++ alone are not seen.

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
        """The time between events, which is given in milliseconds, in ns."""
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
    """The clock for the compute of a device."""
    return Clock() if device.type == "cpu" else DeviceClock(torch.get_device_module(device))


@contextmanager
def _seen(kind: Any, method: str, around: Callable[..., AbstractContextManager[None]]) -> Iterator[None]:
    """While entered, each call of a class's method runs in the context `around` of its arguments."""
    original = getattr(kind, method)

    def seen(*args: Any, **kwargs: Any) -> Any:
        with around(*args, **kwargs):
            return original(*args, **kwargs)

    setattr(kind, method, seen)
    try:
        yield
    finally:
        setattr(kind, method, original)
