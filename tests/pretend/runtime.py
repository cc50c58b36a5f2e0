"""What torch and the libraries ask of ``torch.pretend``: streams, events, seeds and memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tests.pretend.synchronisation import note, waits


class Event:
    """A point in the device's queue. The host has passed it once it has waited for anything that was queued later."""

    def __init__(self, **_: Any) -> None:
        self.record()

    def record(self, stream: Any = None) -> None:  # noqa: ARG002
        """Puts it into the queue."""
        self._at, self._waits = time.perf_counter(), waits()

    def wait(self, stream: Any = None) -> None:
        """Makes a stream wait for it; the host continues."""

    def query(self) -> bool:
        """Whether the host knows that the device has come to it."""
        return waits() > self._waits

    def synchronize(self) -> None:
        """Makes the host wait for it, unless it has passed it."""
        if not self.query():
            note("event")

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds from this event to another; as on a GPU, both must be done."""
        if not (self.query() and end.query()):
            raise RuntimeError("an event is not done whose time is asked for")
        return 1000 * (end._at - self._at)


class Stream:
    """A queue of the device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device_index, self.stream_id = 0, 0

    @property
    def device(self) -> torch.device:
        """The one device."""
        return torch.device("pretend", 0)

    def wait_stream(self, other: Any) -> None:
        """Orders the work of two streams; the host continues."""

    def wait_event(self, event: Event) -> None:
        """Orders work behind an event; the host continues."""

    def record_event(self, event: Event | None = None) -> Event:
        """Puts an event into the queue."""
        event = event or Event()
        event.record()
        return event

    def query(self) -> bool:
        """Whether all is done."""
        return True

    def synchronize(self) -> None:
        """Makes the host wait for the stream."""
        note("device")

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Runtime:
    """The module ``torch.pretend``."""

    Event, Stream = Event, Stream
    _stream = Stream()

    def is_initialized(self) -> bool:
        """Always."""
        return True

    def is_available(self) -> bool:
        """Always."""
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        """One."""
        return 1

    def current_device(self) -> int:
        """Number 0."""
        return 0

    def set_device(self, device: Any) -> None:
        """There is one."""

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:  # noqa: ARG002
        """There is one."""
        yield

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:  # noqa: ARG002
        """All streams are one."""
        yield

    def current_stream(self, device: Any = None) -> Any:  # noqa: ARG002
        """The one stream."""
        return self._stream

    default_stream = current_stream

    def set_stream(self, stream: Any) -> None:
        """All streams are one."""

    def synchronize(self, device: Any = None) -> None:  # noqa: ARG002
        """Makes the host wait for all work."""
        note("device")

    def manual_seed(self, seed: int) -> None:
        """Draws on the device come from the CPU's default generator, which torch seeds."""

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = None) -> Tensor:  # noqa: ARG002
        """State of the default generator."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:  # noqa: ARG002
        """Sets the state of the default generator."""
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types of automatic mixed precision."""
        return [torch.bfloat16, torch.float16]

    def empty_cache(self) -> None:
        """Keeps none."""

    def memory_allocated(self, device: Any = None) -> int:  # noqa: ARG002
        """Is not counted."""
        return 0

    max_memory_allocated = memory_allocated
    memory_reserved = memory_allocated
    max_memory_reserved = memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Is not counted."""

    def memory_stats(self, device: Any = None) -> dict[str, int]:  # noqa: ARG002
        """Is not counted."""
        return {}

    def is_bf16_supported(self) -> bool:
        """It is."""
        return True
