"""Rings of flows at the links of hosts, and turns of classes: deficit round robin (Shreedhar and Varghese, 1996)."""

from collections import deque
from collections.abc import Callable, Sequence

from netsim.engine.reference.calendar import Calendar, Event, send
from netsim.engine.reference.connection import Connection


class Turns:
    """Turns of the classes at one link. Classes without a quantum go first, in their order; the others take turns.

    A class that gets its turn may send its quantum (bytes) and what it has left from its last turn. It goes on while
    that covers its next packet, and keeps the rest. With nothing to send, or paused, it loses the rest.
    """

    def __init__(self, quanta: Sequence[int]) -> None:
        self._quanta = quanta
        self._left = [0] * len(quanta)
        self._turn = next((number for number, quantum in enumerate(quanta) if quantum), 0)
        self._given = False

    def next(self, needs: Sequence[int | None]) -> int | None:
        """The class that sends next, if any; `needs`: bytes of each class's next packet, None if none or paused."""
        ready = [number for number, need in enumerate(needs) if need is not None]
        if not ready or not self._quanta[ready[0]]:
            return ready[0] if ready else None
        while True:
            turn = self._turn
            need = needs[turn]
            if need is None:
                self._left[turn] = 0
            else:
                if self._left[turn] < need and not self._given:
                    self._left[turn] += self._quanta[turn]
                    self._given = True
                if self._left[turn] >= need:
                    return turn
            self._pass_on()

    def sent(self, number: int, size_bytes: int, more: bool) -> None:
        """Takes a sent packet off the quantum of its class; `more`: the class has another packet."""
        if not self._quanta[number]:
            return
        self._left[number] -= size_bytes
        if not more:
            self._left[number] = 0
            self._pass_on()

    def _pass_on(self) -> None:
        """Passes the turn to the next class that has a quantum."""
        self._given = False
        while True:
            self._turn = (self._turn + 1) % len(self._quanta)
            if self._quanta[self._turn]:
                return


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
        """Schedules a look for a packet at `time_ps`, unless one is pending already."""
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
        """Rotates or removes the first flow after it has sent a packet. Returns the flow if removed, else None."""
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
