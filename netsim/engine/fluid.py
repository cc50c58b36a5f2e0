"""Flow-level engine for ideal spraying: every message spreads evenly over all its paths at its max-min fair rate."""

from heapq import heappop, heappush

import numpy as np

from netsim.engine.frontier import Frontier
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene
from netsim.topology.protocol import Path
from netsim.units import PICOSECONDS_PER_SECOND, service_ps

Incidence = tuple[np.ndarray, np.ndarray]
"""Link indices of a message and the share of its bytes that each of them carries."""


def max_min_rates(incidence: list[Incidence], capacity: np.ndarray) -> np.ndarray:
    """Max-min fair rates by progressive filling.

    All rates rise together; when a link is full, the flows on it stop. Bertsekas, Gallager: Data Networks, 6.5.2.

    Args:
        incidence: For each flow its links and the positive share of its rate on each.
        capacity: Capacity of every link, in the unit of the rates.

    Returns:
        One rate a flow.
    """
    flows = np.repeat(np.arange(len(incidence)), [len(links) for links, _ in incidence])
    links = np.concatenate([links for links, _ in incidence])
    shares = np.concatenate([shares for _, shares in incidence])
    rates = np.zeros(len(incidence))
    rising = np.ones(len(incidence), dtype=bool)
    room = capacity.astype(float)
    while rising.any():
        demand = np.bincount(links, weights=shares * rising[flows], minlength=len(capacity))
        used = demand > 0
        level = np.full(len(capacity), np.inf)
        level[used] = room[used] / demand[used]
        full = level <= level.min() * (1 + 1e-12)
        stopped = np.zeros(len(incidence), dtype=bool)
        stopped[flows[full[links]]] = True
        stopped &= rising
        rates[stopped] = level.min()
        rising &= ~stopped
        room -= np.bincount(links, weights=shares * (rates * stopped)[flows], minlength=len(capacity))
        np.maximum(room, 0, out=room)
    return rates


class FluidEngine:
    """One run. Times are whole picoseconds: a message that would end within one of now ends now.

    After its last byte has left, a message still takes the propagation delays and, as a packet would, the service of
    its last packet on each link but the first; so a message alone takes exactly its store-and-forward time.

    Args:
        scene: What must happen, and where.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._frontier = Frontier(scene.tasks)
        self._capacity = np.array([link.rate_bps / 8 / PICOSECONDS_PER_SECOND for link in scene.topology.links])
        self._bytes = np.zeros(len(scene.topology.links))
        self._calendar: list[tuple[int, int, bool]] = []
        self._active: list[int] = []
        self._left = np.zeros(0)
        self._incidence: dict[tuple[int, int], Incidence] = {}
        self._last_sent: dict[int, tuple[int, int]] = {}
        self._task_start = [0] * len(scene.tasks)
        self._task_end = [0] * len(scene.tasks)

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        now = 0
        self._begin(self._frontier.roots, now)
        while self._active or self._calendar:
            now = self._drain(now)
            self._turn_over(now)
        assert not self._frontier.undone, "tasks wait for each other in a circle"
        return self._outcome()

    def _drain(self, now: int) -> int:
        """Lets bytes flow until the next event and returns its time; messages that end then go onto the calendar."""
        until = [self._calendar[0][0]] if self._calendar else []
        if not self._active:
            return until[0]
        rates = max_min_rates([self._spread(index) for index in self._active], self._capacity)
        time_ps = min([*until, now + int(np.ceil((self._left / rates).min()))])
        self._left = self._left - rates * (time_ps - now)
        ends = self._left <= rates
        for position in np.flatnonzero(ends):
            index = self._active[position]
            latency = self._latency(index)
            heappush(self._calendar, (time_ps + latency, index, True))
            nic = self._path(index)[0]
            self._last_sent[nic] = max(self._last_sent.get(nic, (0, 0)), (time_ps, latency))
        self._active = [index for index, end in zip(self._active, ends, strict=True) if not end]
        self._left = self._left[~ends]
        return time_ps

    def _turn_over(self, now: int) -> None:
        """Takes everything that is due from the calendar."""
        while self._calendar and self._calendar[0][0] <= now:
            _, index, arrived = heappop(self._calendar)
            if arrived:
                self._task_end[index] = now
                self._begin(self._frontier.done(index), now)
            else:
                self._begin(self._move_or_finish(index, now), now)

    def _begin(self, ready: list[int], now: int) -> None:
        at_once = list(ready)
        while at_once:
            index = at_once.pop()
            delay_ps = self._scene.tasks[index].delay_ps
            if delay_ps:
                heappush(self._calendar, (now + delay_ps, index, False))
            else:
                at_once += self._move_or_finish(index, now)

    def _move_or_finish(self, index: int, now: int) -> list[int]:
        task = self._scene.tasks[index]
        if not task.bytes:
            self._task_end[index] = now
            return self._frontier.done(index)
        wire_bytes = task.bytes + self._scene.packet.header * -(-task.bytes // self._scene.packet.payload)
        self._task_start[index] = now
        self._active.append(index)
        self._left = np.append(self._left, float(wire_bytes))
        links, shares = self._spread(index)
        self._bytes[links] += wire_bytes * shares
        return []

    def _spread(self, index: int) -> Incidence:
        task = self._scene.tasks[index]
        pair = self._scene.hosts[task.src], self._scene.hosts[task.dst]
        if pair not in self._incidence:
            paths = self._usable(*pair)
            links, count = np.unique([link for path in paths for link in path], return_counts=True)
            self._incidence[pair] = links, count / len(paths)
        return self._incidence[pair]

    def _latency(self, index: int) -> int:
        packet, links = self._scene.packet, self._scene.topology.links
        last = (self._scene.tasks[index].bytes - 1) % packet.payload + 1 + packet.header
        path = self._path(index)
        delays = sum(links[link].delay_ps for link in path)
        return delays + sum(service_ps(last, links[link].rate_bps) for link in path[1:])

    def _path(self, index: int) -> Path:
        task = self._scene.tasks[index]
        return self._usable(self._scene.hosts[task.src], self._scene.hosts[task.dst])[0]

    def _usable(self, src: int, dst: int) -> list[Path]:
        routes = self._scene.routes
        return [routes.paths(src, dst)[index] for index in routes.usable(src, dst)]

    def _outcome(self) -> Outcome:
        moved = [(index, task) for index, task in enumerate(self._scene.tasks) if task.bytes]
        flows = [(i, i, t.src, t.dst, t.bytes, 0, self._task_start[i], self._task_end[i], 0, 0) for i, t in moved]
        carried = [round(size) for size in self._bytes]
        rates = zip(carried, self._scene.rates.initial, strict=True)
        return Outcome(
            completion_ps=max(self._task_end, default=0),
            task_end_ps=np.array(self._task_end, dtype=np.int64),
            packets=0,
            packet_hops=0,
            control_hops=0,
            losses=Losses(),
            flows=np.array(flows, dtype=FLOW).view(np.recarray),
            links=np.array([(size, service_ps(size, rate), 0, 0) for size, rate in rates], dtype=LINK).view(
                np.recarray
            ),
            queues=QueueSeries(1, np.zeros(0, dtype=np.int64)),
            last_sent={nic: latency for nic, (_, latency) in self._last_sent.items()},
        )
