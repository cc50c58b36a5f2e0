"""Limits of a run: when it ends although tasks are left, and the error on the task that still waits."""

import time
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.foundation.units import PICOSECONDS_PER_SECOND, format_size, format_time, parse_time

NO_LIMIT = 2**62
"""A duration that no run reaches, in picoseconds."""

_SECONDS_BETWEEN_REPORTS = 1.0


class LimitError(Refusal):
    """A run has reached one of its limits. It counts as a failure, not as wrong input."""


def _time_or_none(value: object) -> int:
    if value in (None, "none"):
        return NO_LIMIT
    try:
        time_ps = parse_time(value)
    except ValueError as error:
        raise ValueError(f"{error}; or write none") from None
    if not time_ps:
        raise ValueError("a limit of 0 is reached at once; write none, or a duration such as 10s")
    return time_ps


DurationOrNone = Annotated[
    int,
    BeforeValidator(_time_or_none),
    PlainSerializer(lambda time_ps: "none" if time_ps == NO_LIMIT else format_time(time_ps), return_type=str),
    WithJsonSchema({"type": ["string", "null"], "x-values": "none | duration such as 10s"}),
]


class LimitsConfig(Section):
    """Section ``limits``: a run that reaches a limit ends with a line that says which rank waits for what.

    Args:
        simulated: Simulated time at which all tasks must be done; none: no limit.
        wall: Wall-clock time that one run may take, checked now and then; none: no limit.
        fruitless: Number of timeouts of a flow in a row without progress at which the run ends. With trimming also the
            number of rounds in a row, each as long as recovery.timeout, in which packets are refused and no packet of
            the run is newly acknowledged.
    """

    simulated: DurationOrNone = NO_LIMIT
    wall: DurationOrNone = NO_LIMIT
    fruitless: Annotated[int, Field(ge=1, lt=2**31, strict=True)] = 256


class Pulse(NamedTuple):
    """The state of a run: its simulated time, and its finished tasks."""

    now_ps: int  # simulated time
    done: int  # tasks that are done
    tasks: int  # all tasks


class Clock:
    """The wall time of one run, which engines check now and then; `report` gets the run's state about once a second."""

    def __init__(self, limits: LimitsConfig, report: Callable[[Pulse], None] | None = None) -> None:
        now_s = time.monotonic()
        self._report, self._next_s = report, now_s + _SECONDS_BETWEEN_REPORTS
        self._end_s = now_s + limits.wall / PICOSECONDS_PER_SECOND

    def is_over(self, pulse: Pulse) -> bool:
        """Whether the run has reached its wall time; calls `report` about once a second."""
        now_s = time.monotonic()
        if self._report is not None and now_s >= self._next_s:
            self._next_s = now_s + _SECONDS_BETWEEN_REPORTS
            self._report(pulse)
        return now_s >= self._end_s


_REMEDIES = {
    "simulated": "raise limits.simulated, or let the workload send less",
    "wall": "raise limits.wall, or packet.payload, since larger packets are fewer",
    "fruitless": "raise recovery.timeout if it is below the round trip, end failures on the way by until, or raise "
    "limits.fruitless",
    "refused": "let fewer packets be in flight (congestion) or headers be smaller, or raise recovery.timeout or "
    "limits.fruitless",
}
"""The remedy for each limit."""


class Waiting(NamedTuple):
    """The first unfinished task whose predecessors are all done, and why it waits."""

    src: int  # source rank
    dst: int  # destination rank
    bytes: int  # of its message
    why: str  # what it waits for, in words


Which = Literal["simulated", "wall", "fruitless", "refused"]
"""A limit that was reached: `fruitless` counts timeouts, `refused` fruitless rounds; one setting serves both."""


def reached(limits: LimitsConfig, which: Which, pulse: Pulse, waiting: Waiting) -> LimitError:
    """The error of a run that has reached a limit; `waiting` is the first task that waits."""
    name = "fruitless" if which == "refused" else which
    value = limits.fruitless if name == "fruitless" else format_time(getattr(limits, which))
    when = "" if which == "simulated" else f" at {format_time(pulse.now_ps)} of simulated time"
    first = f"rank {waiting.dst} waits for {format_size(waiting.bytes)} from rank {waiting.src}"
    if not waiting.bytes:
        first = f"rank {waiting.src} waits for its own computation"
    problem = f"{value} reached{when}, {pulse.done} of {pulse.tasks} tasks done; first, {first}: {waiting.why}"
    return LimitError("scenario", f"limits.{name}", problem, _REMEDIES[which])


def missing(packets: int, timeouts: int) -> str:
    """Why a message waits whose packets are in flight; `timeouts`: largest number in a row of one of its flows.

    It does not state how many packets have arrived, since engines may know arrivals in advance.
    """
    said = _missing(packets)
    return f"{said}, after {timeouts} timeouts in a row without progress" if timeouts else said


def refused(packets: int, rounds: int) -> str:
    """Why a message waits whose packets are refused, after `rounds` rounds without a new acknowledgement in the run."""
    return f"{_missing(packets)}, after {rounds} rounds in a row in which packets were refused and none got through"


def _missing(packets: int) -> str:
    return "its packet has not arrived" if packets == 1 else f"not all of its {packets} packets have arrived"


def not_begun(delay_ps: int) -> str:
    """Why a task whose message is not released yet waits."""
    return f"its delay of {format_time(delay_ps)} is not over"
