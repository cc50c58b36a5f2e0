"""From messages to flows and to the segments that each flow passes."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from netsim.draws import Draws, Purpose
from netsim.engine.fluid.flows import SPREAD, Flows, Segments
from netsim.engine.protocol import Scene
from netsim.topology.protocol import Path
from netsim.transport.ecmp import Ecmp
from netsim.transport.protocol import Flow, Transport
from netsim.workload.tasks import TaskColumns


class Admitted(NamedTuple):
    """New flows, a row each."""

    id: np.ndarray  # as in `netsim.transport.protocol.Flow`
    task: np.ndarray  # task whose bytes it carries
    bytes: np.ndarray  # payload
    route: np.ndarray  # index of its route between the leaves, or SPREAD
    delay_ps: np.ndarray  # delay between release and start


class Admission:
    """Cuts messages into flows as the transport says and finds the segments that they pass.

    A flow without a path of its own spreads over all usable paths: evenly if the transport sprays, in proportion to
    their present rates without a transport (None).
    """

    def __init__(self, scene: Scene, tasks: TaskColumns, transport: Transport | None, segments: Segments) -> None:
        self._scene, self._tasks, self._transport, self._segments = scene, tasks, transport, segments
        topology = scene.topology
        hosts = range(topology.hosts)
        self._host = np.array(scene.hosts, dtype=np.int64)
        self._leaf = np.array([topology.leaf(host) for host in hosts])
        self._up = np.array([topology.up(host) for host in hosts])
        self._down = np.array([topology.down(host) for host in hosts])
        self._inside = np.array([topology.inside(host) for host in hosts])

    def admit(self, released: np.ndarray, now_ps: int) -> Admitted:
        """The flows of all messages that are released in one instant, by task index."""
        transport, tasks = self._transport, self._tasks
        hashes = type(transport) is Ecmp and transport.hash == "random"
        if transport is not None and not hashes:
            return self._ask(transport, released, now_ps)
        stride, route = 1, np.full(len(released), SPREAD, dtype=np.int64)
        if transport is not None:
            stride = transport.stride
            usable_routes = self._scene.routes.usable_routes
            pairs, member = self._pairs(released)
            usable = [usable_routes(*pair, self._scene.routes.epoch(now_ps)) for pair in pairs]
            routes = np.array([*map(len, usable)], dtype=np.int64)
            indices = np.fromiter(chain.from_iterable(usable), dtype=np.int64)
            src, dst = (ranks[released].astype(np.uint64) for ranks in (tasks.src, tasks.dst))
            turn = Draws(transport.seed, Purpose.ECMP_PATH)(src, dst) % routes[member].astype(np.uint64)
            route = indices[(np.cumsum(routes) - routes)[member] + turn.astype(np.int64)]
        nothing = np.zeros(len(released), dtype=np.int64)
        return Admitted(released * stride, released, tasks.bytes[released], route, nothing)

    def segments_of(self, task: np.ndarray, route: np.ndarray, now_ps: int) -> np.ndarray:
        """Segments of flows that start now: [flows, 3] indices."""
        src, dst = self._host[self._tasks.src[task]], self._host[self._tasks.dst[task]]
        inside = src == dst
        first = np.where(inside, self._inside[src], self._up[src])
        last = np.where(inside, self._segments.nothing, self._down[dst])
        leaves, choices = len(self._scene.topology.tiers[0]), int(route.max()) + 2
        pair = self._leaf[src] * leaves + self._leaf[dst]
        codes, choice = np.unique(pair * choices + route + 1, return_inverse=True)
        epoch = self._scene.routes.epoch(now_ps)
        middle = []
        for code in codes.tolist():
            index, number = divmod(code, choices)
            leaf_pair = divmod(index, leaves)
            routes = self._scene.topology.between(*leaf_pair)
            usable = (number - 1,) if number else self._scene.routes.usable_routes(*leaf_pair, epoch)
            middle.append(self._segment(tuple(routes[route] for route in usable), now_ps))
        between = np.array(middle, dtype=np.int64)[choice]
        return np.stack([first, np.where(inside, self._segments.nothing, between), last], axis=1)

    def _segment(self, routes: tuple[Path, ...], now_ps: int) -> int:
        """The segment of traffic over these routes; without a transport, weighted by rate, the fastest route first."""
        if self._transport is None and len(routes) > 1:
            rates = [min(self._rate_bps(link, now_ps) for link in route) for route in routes]
            by_rate = sorted(zip(routes, rates, strict=True), key=lambda of_route: -of_route[1])
            return self._segments.index(*zip(*by_rate, strict=True))
        return self._segments.index(routes)

    def _rate_bps(self, link: int, now_ps: int) -> int:
        """Rate of a link; the nominal rate if it is down and the routing has not noticed."""
        return self._scene.rates.at(link, now_ps) or self._scene.rates.initial[link]

    def rerouted(self, flows: Flows, which: np.ndarray, serial: np.ndarray, now_ps: int) -> np.ndarray:
        """The routes of some flows after the routing has learned of a change: unusable routes are replaced."""
        routes, route = self._scene.routes, flows.route[which]
        pairs, member = self._pairs(flows.task[which])
        usable = [routes.usable_routes(*pair, routes.epoch(now_ps)) for pair in pairs]
        for place in np.argsort(flows.id[which]).tolist():
            good = usable[member[place]]
            if self._transport is not None and route[place] != SPREAD and route[place] not in good:
                index = which[place]
                message = self._scene.release(int(flows.task[index]), int(flows.start_ps[index]))
                flow = Flow(int(flows.id[index]), message, int(flows.bytes[index]), int(route[place]))
                route[place] = self._transport.choose_path(flow, int(serial[place]), good, now_ps)
        return route

    def _pairs(self, task: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
        """The distinct pairs of leaves between which tasks move bytes, and the pair of each task."""
        leaves = len(self._scene.topology.tiers[0])
        src, dst = self._host[self._tasks.src[task]], self._host[self._tasks.dst[task]]
        codes, member = np.unique(self._leaf[src] * leaves + self._leaf[dst], return_inverse=True)
        return [divmod(code, leaves) for code in codes.tolist()], member

    def _ask(self, transport: Transport, released: np.ndarray, now_ps: int) -> Admitted:
        """Flows into which the transport cuts the messages of each host."""
        src, dst = self._host[self._tasks.src[released]], self._host[self._tasks.dst[released]]
        by_link: dict[int, list[int]] = defaultdict(list)
        for link, task in zip(
            np.where(src == dst, self._inside[src], self._up[src]).tolist(), released.tolist(), strict=True
        ):
            by_link[link].append(task)

        def flows() -> Iterator[tuple[int, int, int, int, int]]:
            for tasks in by_link.values():
                for flow in transport.admit([self._scene.release(task, now_ps) for task in tasks], now_ps):
                    route = SPREAD if flow.path is None else flow.path
                    yield flow.id, flow.message.task, flow.bytes, route, flow.delay_ps

        columns = np.fromiter(flows(), dtype=np.dtype((np.int64, 5)))
        return Admitted(*(np.ascontiguousarray(column) for column in columns.T))
