"""The recent figures of a run, as the terminal and the dashboard show them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

HISTORY = 4096
"""Most records of one figure that are kept; of more, every second one is dropped."""
_LATEST = 0.1
"""Weight of a step's time in the running mean."""


class Story:
    """The latest figure of each name, the course of some, and how long the rest will take.

    Attributes:
        stepped_at: when the last step ended, in seconds of the clock; None before.
        step_s: running mean of the step time; None before.
    """

    def __init__(self, *, first_step: int, last_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.first_step, self.last_step, self.step = first_step, last_step, first_step
        self.values: dict[str, float] = {}
        self.stepped_at: float | None = None
        self.step_s: float | None = None
        self._clock, self._begun_at = clock, clock()
        self._courses: dict[str, list[float]] = {}

    def stepped(self, step: int, seconds: float) -> None:
        """Takes in a step."""
        self.step, self.stepped_at = step, self._clock()
        self.step_s = seconds if self.step_s is None else (1 - _LATEST) * self.step_s + _LATEST * seconds

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Takes in the figures of a logged step."""
        self.step = step
        self.values.update(values)
        for name, value in values.items():
            course = self._courses.setdefault(name, [])
            course.append(value)
            if len(course) > HISTORY:
                del course[::2]

    def course(self, name: str, least: int) -> list[float]:
        """The latest values of a figure, oldest first: the later half of all, and at least `least` where there are."""
        course = self._courses.get(name, [])
        return course[-max(least, len(course) // 2) :]

    def left(self) -> str | None:
        """Time until the last step, as h:mm:ss; None where it is not known or over."""
        if self.step_s is None or self.step >= self.last_step:
            return None
        return str(timedelta(seconds=round((self.last_step - self.step) * self.step_s)))

    def elapsed(self) -> str:
        """Time since this process began, up to the last step, as h:mm:ss."""
        return str(timedelta(seconds=round((self.stepped_at or self._begun_at) - self._begun_at)))

    def silence_s(self) -> float:
        """Seconds since the last step if they exceed ten mean step times plus five seconds; 0 otherwise."""
        if self.stepped_at is None or self.step_s is None or self.step >= self.last_step:
            return 0.0
        silent = self._clock() - self.stepped_at
        return silent if silent > 10 * self.step_s + 5 else 0.0

    def share_waiting(self) -> float:
        """Share of the step time that went by waiting for data; 0 where it is not known."""
        wait, step = (self.values.get(f"time.{name}", math.nan) for name in ("data_wait_s", "step_s"))
        return wait / step if wait >= 0 and step > 0 else 0.0
