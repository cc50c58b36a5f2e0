"""Ranks that are slower than the others."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

QUIET_S = 600.0
"""Least time between two lines about slow ranks."""


class OwnWork:
    """Measures the local work of a rank in a step: waiting for its data, and the forward passes.

    The backward pass is left out: there the ranks wait for each other, so that a slow one makes all of them late. With
    experts, ZeRO 3 or couplings over a whole step they wait for each other in the forward pass too, and the measured
    spread is too small. On a device the time is the device's, and that of the step before: the host need not wait for
    it, since it has waited for the norm of that step's gradient.
    """

    def __init__(self, device: torch.device) -> None:
        self._runtime: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []
        self._earlier: list[tuple[Any, Any]] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds the time inside to the step's."""
        if self._runtime is not None:
            begin, end = (self._runtime.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun

    def take(self) -> float:
        """Ends a step: seconds since the last call; on a device those before it, 0 at first."""
        for begin, end in self._earlier:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._earlier, self._events = self._events, []
        return seconds


class Stragglers:
    """Compares the ranks' local work between two records; names a rank above `factor` times the mean, None: none."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._steps = 0
        self._seconds: list[float] = []
        self._said = -float("inf")

    def take(self, own_s: Sequence[float]) -> None:
        """Notes the seconds of each rank's local work in a step."""
        self._steps += 1
        self._seconds = [a + b for a, b in zip(self._seconds or [0.0] * len(own_s), own_s, strict=True)]

    def figures(self, step: int) -> dict[str, float]:
        """``time.step_spread`` since the last call: slowest rank over mean, 1 where nothing is known; names an outlier
        on stderr.
        """
        mean = sum(self._seconds) / len(self._seconds)
        slowest = max(range(len(self._seconds)), key=self._seconds.__getitem__)
        spread = self._seconds[slowest] / mean if mean else 1.0
        if self._factor is not None and spread > self._factor and time.monotonic() > self._said + QUIET_S:
            self._said = time.monotonic()
            print(
                f"rank {slowest} is slow: its data and forward passes took {spread:.1f} times the mean of the ranks "
                f"in the {self._steps} steps up to {step}",
                file=sys.stderr,
                flush=True,
            )
        self._steps, self._seconds = 0, []
        return {"time.step_spread": spread}
