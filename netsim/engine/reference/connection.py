"""Flows and their packets, and the paths that a transport chooses for them."""

from collections.abc import Callable

import simpy

from netsim.congestion.protocol import Congestion
from netsim.congestion.recovery import Recovery
from netsim.congestion.timeout import Timeout
from netsim.engine.protocol import Scene
from netsim.engine.reference.calendar import arrival
from netsim.topology.protocol import Path, sources
from netsim.transport.protocol import Flow, Transport


class Connection:
    """A flow without acknowledgements: nothing limits it and none of its packets is lost."""

    __slots__ = (
        "end_ps",
        "flow",
        "highest",
        "in_ring",
        "key",
        "left",
        "packets",
        "path",
        "reordered",
        "retransmitted",
        "serial",
        "start_ps",
        "traffic_class",
    )

    def __init__(self, flow: Flow, packets: int, start_ps: int) -> None:
        self.flow = flow
        self.key = flow.id
        self.path = flow.path
        self.packets = self.left = packets
        self.serial = 0
        self.highest = -1
        self.reordered = self.retransmitted = 0
        self.in_ring = False
        self.start_ps = self.end_ps = start_ps
        self.traffic_class = 0

    def ready(self, now_ps: int) -> bool:  # noqa: ARG002
        """A packet may leave now."""
        return self.serial < self.packets

    def take(self, now_ps: int) -> int:  # noqa: ARG002
        """Returns the number of the packet that leaves, and counts its transmission."""
        self.serial += 1
        return self.serial - 1


class Listener(Connection):
    """A flow whose receiver acknowledges every packet; it never times out if `timeout` is None."""

    __slots__ = (
        "congestion",
        "deadline_ps",
        "given_up",
        "next_ps",
        "notified_ps",
        "recovery",
        "sent",
        "timeout",
        "timer_ps",
        "timer_runs",
        "wake_ps",
    )

    def __init__(
        self,
        flow: Flow,
        packets: int,
        start_ps: int,
        congestion: Congestion,
        recovery: Recovery,
        timeout: Timeout | None,
    ) -> None:
        super().__init__(flow, packets, start_ps)
        self.congestion, self.recovery = congestion, recovery
        self.timeout = timeout
        self.timer_runs = False
        self.deadline_ps = self.timer_ps = 0
        self.given_up = False
        self.next_ps = 0
        self.wake_ps = -1
        self.notified_ps = -(2**62)
        self.sent = 0

    def open(self) -> bool:
        """Whether there is a packet to send, the window has room for it, and the flow is not given up."""
        return not self.given_up and self.recovery.pending() and self.recovery.in_flight < self.congestion.window()

    def starved(self) -> bool:
        """Whether there is a packet to send, and no credit for it."""
        return not self.given_up and self.recovery.pending() and not self.congestion.window()

    def ready(self, now_ps: int) -> bool:
        """A packet may leave now."""
        return now_ps >= self.next_ps and self.open()

    def take(self, now_ps: int) -> int:
        """Returns the number of the packet that leaves; the retransmission timer starts if none is in flight."""
        if not self.recovery.in_flight and self.timeout is not None:
            self.deadline_ps = now_ps + self.timeout.lasts_ps()
        sequence = self.recovery.take(self.serial)
        self.serial += 1
        if sequence < self.sent:
            self.retransmitted += 1
        else:
            self.sent = sequence + 1
        return sequence


class Packet(simpy.Event):
    """A packet, or its acknowledgement on the way back (`control`); simpy calls it when it arrives at its next link.

    `path` has the links as far as they are known, `links` their number in all; `serial` is that of the transmission.
    """

    __slots__ = (
        "blames",
        "callbacks",
        "came_ps",
        "choice",
        "connection",
        "control",
        "expected",
        "found_ps",
        "granted",
        "hop",
        "joined_ps",
        "key",
        "links",
        "marked",
        "notified",
        "passes",
        "path",
        "refusal",
        "sent_ps",
        "sequence",
        "serial",
        "trimmed",
        "trimmed_last",
        "usable",
        "wire_bytes",
        "work",
    )
    _ok = True

    def __init__(
        self, connection: Connection, sequence: int, serial: int, path: Path, links: int, wire_bytes: int, control: bool
    ) -> None:
        self.connection = connection
        self.sequence = sequence
        self.serial = serial
        self.path = path
        self.links = links
        self.wire_bytes = wire_bytes
        self.work = wire_bytes * 8 * 10**12
        self.control = control
        self.hop = 0
        self.passes = self.trimmed = self.trimmed_last = self.marked = False
        self.key = arrival(connection.flow.id, serial, control)


class Routes:
    """Asks the transport for the path of each packet."""

    def __init__(self, scene: Scene, transport: Transport) -> None:
        self._scene, self._transport = scene, transport
        self._source = sources(scene.topology)

    def packet(self, connection: Connection, now_ps: int) -> Packet:
        """The packet of a flow that leaves now, with its path; if switches choose, with its first link only."""
        flow, serial, config = connection.flow, connection.serial, self._scene.packet
        sequence = connection.take(now_ps)
        payload = min(config.payload, flow.bytes - sequence * config.payload)
        paths = flow.message.paths
        usable = self._usable(flow, now_ps)
        choice: int | None = None
        if connection.path is not None:
            if connection.path not in usable:
                connection.path = self._transport.choose_path(flow, serial, usable, now_ps)
            choice = connection.path
        elif not (self._transport.at_switch or self._transport.at_first_switch):
            choice = self._transport.choose_path(flow, serial, usable, now_ps)
        path = paths[0][:1] if choice is None else paths[choice]
        wire_bytes = payload + config.header
        links = len(paths[usable[0]] if choice is None else path)
        packet = Packet(connection, sequence, serial, path, links, wire_bytes, control=False)
        packet.choice, packet.usable, packet.sent_ps = choice, usable, now_ps
        return packet

    def go_on(self, packet: Packet, now_ps: int, backlog_ps: Callable[[int], int]) -> None:
        """Extends the path of a packet by the link, or the whole path, that its switch chooses by backlogs in ps."""
        flow, hop, taken = packet.connection.flow, packet.hop, packet.path
        paths = flow.message.paths
        if self._transport.at_first_switch:
            packet.path = paths[self._transport.choose_path_at_switch(flow, packet.serial, packet.usable, backlog_ps)]
            packet.links = len(packet.path)
            return
        ahead = [paths[index] for index in packet.usable if paths[index][:hop] == taken]
        links = tuple(dict.fromkeys(path[hop] for path in ahead))
        link = links[0]
        if len(links) > 1:
            link = self._transport.choose_link(flow, packet.serial, self._source[link], links, backlog_ps, now_ps)
        packet.path += (link,)
        packet.links = next(len(path) for path in ahead if path[hop] == link)

    def _usable(self, flow: Flow, now_ps: int) -> tuple[int, ...]:
        routes, message = self._scene.routes, flow.message
        if len(routes.times) == 1:
            return message.usable
        hosts = self._scene.hosts
        return routes.usable(hosts[message.src], hosts[message.dst], routes.epoch(now_ps))
