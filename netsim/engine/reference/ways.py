"""Ways of packets: the path with which one leaves its host, and what switches add to it."""

from collections.abc import Callable

from netsim.engine.protocol import Scene
from netsim.engine.reference.connection import Connection, Packet
from netsim.topology.protocol import sources
from netsim.transport.protocol import Flow, Transport


class Ways:
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
        """Extends the path of a packet by the choice of the switch where it is, by backlogs of links in picoseconds."""
        flow, hop, taken = packet.connection.flow, packet.hop, packet.path
        paths = flow.message.paths
        if self._transport.at_first_switch:
            packet.path = paths[self._transport.choose_way(flow, packet.serial, packet.usable, backlog_ps)]
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
