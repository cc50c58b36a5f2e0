"""Admission: from the messages that are released in one instant to the flows of each host, in order."""

from collections import defaultdict

from netsim.draws import Draws, Purpose
from netsim.engine.protocol import Scene
from netsim.foundation.refusal import Refusal
from netsim.topology.protocol import places
from netsim.transport.protocol import Flow, Release, Transport


class Admission:
    """Hands messages to the transport; the seed shuffles destinations."""

    def __init__(self, scene: Scene, transport: Transport, seed: int) -> None:
        self._scene, self._transport = scene, transport
        self._place = places(scene.topology)
        self._order = Draws(seed, Purpose.DESTINATION_ORDER)

    def flows(self, released: list[int], now_ps: int) -> dict[int, list[Flow]]:
        """For each host's link the flows of tasks released now, ascending, in the order in which they join its ring."""
        scene = self._scene
        epoch = scene.routes.epoch(now_ps)
        by_link: dict[int, list[Release]] = defaultdict(list)
        for index in released:
            task = scene.tasks[index]
            src, dst = scene.hosts[task.src], scene.hosts[task.dst]
            paths = scene.routes.paths(src, dst)
            usable = scene.routes.usable(src, dst, epoch)
            leaves, places = (scene.topology.leaf(dst), scene.topology.leaf(src)), (self._place[src], self._place[dst])
            ends = leaves[1], *places, scene.routes.minimal(leaves[1], leaves[0])
            like = None if scene.tasks.keys is None else int(scene.tasks.keys[index])
            release = Release(index, task.src, task.dst, leaves[0], task.bytes, paths, usable, *ends, like)
            by_link[paths[0][0]].append(release)
        return {link: self._ordered(self._admitted(messages, now_ps)) for link, messages in by_link.items()}

    def _admitted(self, released: list[Release], now_ps: int) -> list[Flow]:
        flows = self._transport.admit(released, now_ps)
        released_bytes, carried = sum(message.bytes for message in released), sum(flow.bytes for flow in flows)
        if carried != released_bytes:
            problem = f"{type(self._transport).__name__}.admit carries {carried} B of {released_bytes} B"
            raise Refusal("scenario", "transports", problem, "return flows with all bytes of the messages")
        return flows

    def _ordered(self, flows: list[Flow]) -> list[Flow]:
        return flows if self._transport.orders_flows else sorted(flows, key=self._turn)

    def _turn(self, flow: Flow) -> tuple[int, int]:
        """Place of a flow among those its host releases together."""
        if self._scene.nic.destinations == "random":
            return self._order(self._transport.key_of(flow)), flow.id
        hosts = self._scene.hosts
        return (hosts[flow.message.dst] - hosts[flow.message.src]) % self._scene.topology.hosts, flow.id
