"""The sending side of a host's link: for each class a ring of flows that take turns."""

from collections import deque
from collections.abc import Callable

from netsim.engine.reference.calendar import Calendar, Event, send
from netsim.engine.reference.connection import Connection


class Nic:
    """The ring of one class at one link. When the link is free, the ring of the first class looks first."""

    def __init__(self, calendar: Calendar, link: int, place: int, take_next: Callable[["Nic"], None]) -> None:
        self.link = link
        self.ring: deque[Connection] = deque()
        self.stopped = False
        self._scheduled = False
        self._look = Event(calendar, self._take)
        self._priority = send(place)
        self._take_next = take_next

    def join(self, connection: Connection) -> None:
        """Adds a flow to the end of the ring."""
        connection.in_ring = True
        self.ring.append(connection)

    def look_at(self, time_ps: int) -> None:
        """Schedules a look for a packet at `time_ps`, unless one is due already."""
        if not self._scheduled and not self.stopped:
            self._scheduled = True
            self._look.schedule(self._priority, time_ps)

    def ready(self, now_ps: int) -> Connection | None:
        """The first flow of the ring that may send; flows before it leave the ring."""
        while self.ring:
            if self.ring[0].ready(now_ps):
                return self.ring[0]
            self.ring.popleft().in_ring = False
        return None

    def turn(self, now_ps: int, round_robin: bool) -> Connection | None:
        """Moves the first flow after it has sent a packet. Returns the flow if it has left the ring, else None."""
        first = self.ring[0]
        if first.ready(now_ps):
            if round_robin:
                self.ring.rotate(-1)
            return None
        self.ring.popleft()
        first.in_ring = False
        return first

    def _take(self) -> None:
        self._scheduled = False
        self._take_next(self)
