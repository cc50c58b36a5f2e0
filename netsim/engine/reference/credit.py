"""Receivers that ask for packets: each host hands out its link's rate to the flows that it receives, in turn."""

from collections import deque
from collections.abc import Callable
from functools import partial

from netsim.congestion.credit import Credited, NdpConfig, ReceiverCreditConfig
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import Calendar, Event, pull
from netsim.engine.reference.connection import Listener, Packet
from netsim.foundation.units import service_ps

FIRST_GRANT = 1 << 27
"""First serial of credits, above all serials of packets, so that no two control packets of a flow are alike."""


class Demand:
    """A receiver's knowledge of one flow; `control` gives the first window, and how far ahead the receiver asks."""

    def __init__(self, connection: Listener, control: Credited) -> None:
        self._connection, self._control = connection, control
        self.arrived = self.trimmed = self.granted = self.grants = 0
        self.waits = False
        self.latest: Packet | None = None

    def owed(self) -> int:
        """Packets to ask for: packets that are still to be sent, but no more than the receiver may expect at once."""
        connection, control = self._connection, self._control
        to_send = connection.packets + self.trimmed - control.unasked - self.granted
        return min(to_send, connection.left, control.ahead + self.arrived - self.granted)


class Receivers:
    """All hosts as receivers; `send` sends a credit for a flow, back along the path of its latest packet."""

    def __init__(
        self,
        scene: Scene,
        config: ReceiverCreditConfig | NdpConfig,
        calendar: Calendar,
        send: Callable[[Listener, Packet, Demand], None],
    ) -> None:
        self._scene, self._config, self._calendar, self._send = scene, config, calendar, send
        self._demands: dict[int, Demand] = {}
        self._waiting: dict[int, deque[Listener]] = {}
        self._next_ps: dict[int, int] = {}
        self._runs: set[int] = set()

    def note(self, packet: Packet) -> None:
        """Notes that a packet or its header has arrived."""
        connection, link = packet.connection, packet.path[-1]
        assert isinstance(connection, Listener)
        assert isinstance(connection.congestion, Credited)
        demand = self._demands.get(connection.flow.id)
        if demand is None:
            demand = self._demands[connection.flow.id] = Demand(connection, connection.congestion)
        demand.latest = packet
        demand.arrived += 1
        demand.trimmed += packet.trimmed
        if demand.owed() > 0 and not demand.waits:
            demand.waits = True
            self._waiting.setdefault(link, deque()).append(connection)
            self._schedule(link)

    def _schedule(self, link: int) -> None:
        if link not in self._runs:
            self._runs.add(link)
            due = Event(self._calendar, partial(self._pull, link))
            due.schedule(pull(link), max(self._calendar.now, self._next_ps.get(link, 0)))

    def _pull(self, link: int) -> None:
        """Sends a credit to the next flow, and waits as long as its packets take at the pace."""
        self._runs.remove(link)
        waiting, packet = self._waiting[link], self._scene.packet
        connection = waiting.popleft()
        demand = self._demands[connection.flow.id]
        amount = max(0, min(demand.owed(), self._config.grant))
        demand.granted += amount
        demand.grants += 1
        demand.waits = demand.owed() > 0
        if demand.waits:
            waiting.append(connection)
        full_ps = service_ps(packet.payload + packet.header, self._scene.rates.initial[link])
        self._next_ps[link] = self._calendar.now + int(amount * full_ps / self._config.pace)
        if waiting:
            self._schedule(link)
        assert demand.latest is not None
        self._send(connection, demand.latest, demand)
