"""simpy's calendar in whole picoseconds, and the order of events within one picosecond.

1. messages are done, tasks begin; links are paused and resumed, by link and class; then transmissions end, by link;
2. packets arrive, by (flow id, serial), data before acknowledgements;
3. timers of flows, by flow id, then receivers that ask for packets, by link;
4. messages that may leave now are admitted to their host's ring of flows, then flows with a delayed start, by id;
5. links that hosts send on take the next packet from their rings, by link and class;
6. the run ends if its simulated time is limited to this, or if background traffic alone is left.
"""

from collections.abc import Callable

import simpy
from simpy.core import EmptySchedule
from simpy.events import EventPriority

_SERIAL_BITS = 32
_WORDS = -(1 << 64)
_ENDS = -(1 << 32)
_AFTER_ARRIVALS = 1 << 128
_AFTER_TIMERS = 1 << 192
_AFTER_ADMISSION = 1 << 256

FIRST = EventPriority(-(1 << 65))
RELEASE = EventPriority(_AFTER_TIMERS)
LAST = EventPriority(1 << 320)
"""Priority of the end of a run, at its limit of simulated time or when only background traffic is left."""


def pause_frame(queue: int) -> EventPriority:
    """Place of a switch's frame that pauses a queue, or resumes it."""
    return EventPriority(_WORDS + queue)


def end(link: int) -> EventPriority:
    """Place of the end of a transmission."""
    return EventPriority(_ENDS + link)


def arrival(flow: int, serial: int, control: bool) -> EventPriority:
    """Place of a packet among those that arrive in the same instant."""
    return EventPriority((flow << _SERIAL_BITS | serial) << 1 | control)


def timer(flow: int, pace: bool) -> EventPriority:
    """Place of a flow's timers within an instant: first the retransmission timer, then the pacing timer."""
    return EventPriority(_AFTER_ARRIVALS + (flow << 1 | pace))


def pull(link: int) -> EventPriority:
    """Place of a receiver that asks for packets, by the link that leads to it: after all timers of flows."""
    return EventPriority(_AFTER_ARRIVALS + (1 << 64) + link)


def late_start(flow: int) -> EventPriority:
    """Place of a flow that joins its host's ring later than its message was released."""
    return EventPriority(_AFTER_TIMERS + 1 + flow)


def send(ring: int) -> EventPriority:
    """Place of a ring of a host's link that looks for a packet."""
    return EventPriority(_AFTER_ADMISSION + ring)


class Calendar(simpy.Environment):
    """simpy's calendar in whole picoseconds."""

    @property
    def now(self) -> int:
        """Current time in picoseconds."""
        return int(self._now)

    def end(self) -> None:
        """Drops all pending events, which ends the run."""
        self._queue.clear()

    def steps(self, count: int, until_ps: int) -> bool:
        """Processes up to `count` events until `until_ps`; returns whether events may be left."""
        queue = self._queue
        try:
            for _ in range(count):
                if queue and queue[0][0] > until_ps:
                    break
                self.step()
        except EmptySchedule:
            return False
        return True


class Event(simpy.Event):
    """A simpy event that happens at a chosen time and priority, and may be scheduled again after it has happened."""

    _ok = True

    def __init__(self, calendar: Calendar, call: Callable[[], None]) -> None:
        self._calendar = calendar
        self._calls = [lambda _: call()]

    def schedule(self, priority: EventPriority, time_ps: int) -> None:
        """Puts the event on the calendar."""
        self.callbacks = self._calls
        self._calendar.schedule(self, priority, time_ps - self._calendar.now)
