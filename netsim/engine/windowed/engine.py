"""The windowed engine, equal to the event engine and faster on fabrics with many hosts, and its wheels of arrivals."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.arrays import END_PS, heap, longer_heap, zeros
from netsim.engine.core.fabric import FabricArrays
from netsim.engine.core.shared import names, number, record
from netsim.engine.event.engine import EventEngine, arrays_of
from netsim.engine.event.growth import with_capacity_for_waiting
from netsim.engine.event.state import Array, Queued, State
from netsim.engine.limits import Pulse, Waiting, Which, reached
from netsim.engine.protocol import Outcome, Scene
from netsim.engine.windowed.shares import LEADER, add_up, rows, share_of, shares_of, with_longer_timers
from netsim.foundation.refusal import Refusal
from netsim.transport.protocol import Transport

WINDOWS, _BUCKETS = 1 << 14, 1 << 16
"""Windows in one turn of the wheel, and most buckets of a thread."""
_CHUNKS, _ARRIVALS, _HELD, _UNITS_OF_CHUNK = 256, 1024, 1024, 4
"""Initial room of each thread, and units per chunk of which at least one is kept, since growing copies all chunks."""


class Wheels(NamedTuple):
    """The wheels of all threads; the fields up to `scratch` have a row for each thread."""

    window: Array
    due: Array
    buckets: Array
    used: Array
    returned: Array
    found: Array
    arrivals: Array
    places: Array
    receipts: Array
    touched: Array
    woken: Array
    active: Array
    pending: Array
    timers: Array
    ends: Array
    scratch: Array
    region: Array
    owners: Array
    packets: Array
    next_chunk: Array
    units: Array
    endings: Array
    inside: Array
    held: Array
    next_held: Array
    meetings: Array


def wheels_of(state: State, length_ps: int, by_switch: bool, threads: int) -> Wheels:
    """Empty wheels."""
    links, switches = len(state.network.links), int(state.routing.source.max()) + 1
    regions = regions_of(state, threads)
    window = rows(threads, 1, record("Window"))
    window["length_ps"], window["number"], window["by_switch"] = length_ps, -1, by_switch
    window["free_chunk"] = window["free_timer"] = -1
    window["regions"], window["thread"], window["threads"] = regions, np.arange(threads)[:, None], threads
    window["due_ps"], window["spare"] = END_PS, _most_chunks(state.queued, regions)
    windows = min(WINDOWS, 1 << ((_BUCKETS // regions).bit_length() - 1))
    units = zeros(links + switches, record("Unit"))
    units["first_timer"] = -1
    units["at_host"][state.routing.up] = units["at_host"][state.routing.inside] = 1
    used, returned = rows(threads, 2, record("Used")), rows(threads, 2 * threads, record("Used"))
    used["first"] = returned["first"] = -1
    ends = heap(0 if state.queued is None else links)
    endings = np.zeros(0 if state.queued is None else switches, dtype=record("Ending"))
    endings["first"], endings["ends_ps"] = -1, END_PS
    return Wheels(
        window,
        np.zeros((threads, windows), dtype=np.int32),
        np.zeros((threads, windows * regions), dtype=record("Bucket")),
        used,
        returned,
        np.zeros((threads, _ARRIVALS), dtype=record("Arrival")),
        np.zeros((threads, _ARRIVALS), dtype=record("Arrival")),
        np.zeros((threads, number("PLACES")), dtype=np.int64),
        np.zeros((threads, _ARRIVALS if state.network.rules["ends_early"][0] else 0), dtype=record("Arrival")),
        np.zeros((threads, len(units) + 1), dtype=np.int32),
        np.zeros((threads, switches), dtype=np.int32),
        np.zeros((threads, links), dtype=np.int32),
        np.zeros((threads, len(units)), dtype=np.int32),
        np.zeros((threads, 0), dtype=record("Timer")),
        np.repeat(ends[None], threads, axis=0),
        rows(threads, 1, record("Packet")),
        region_of_units(state, switches, regions, threads),
        owners_of(regions, threads),
        zeros(0, record("Packet")),
        np.zeros(0, dtype=np.int32),
        units,
        endings,
        heap(2 * len(state.hosts.rings)),
        zeros(0, record("Packet")),
        np.zeros(0, dtype=np.int32),
        np.zeros((threads + 1) * number("MEETING_ROW"), dtype=np.int64),
    )


def _most_chunks(queued: Queued | None, regions: int) -> int:
    """Most chunks that one event may begin to fill: one for a packet, and others for pause frames to queues."""
    if queued is None:
        return 1
    return 2 + regions * len(np.unique(queued.served["pause_delay_ps"])) + len(queued.queues) // number("CHUNK")


def with_capacity(wheels: Wheels, notes: Array | None) -> Wheels:
    """The wheels with room for the arrivals of the next region; chunks and records that run out are doubled."""
    window = wheels.window[:, 0]
    arrivals = int((window["arrivals"] + window["awaited"]).max())
    if arrivals > wheels.found.shape[1]:
        found, arrived = (_longer(array, 3 * arrivals // 2) for array in (wheels.found, wheels.arrivals))
        wheels = wheels._replace(found=found, arrivals=arrived)
        if wheels.receipts.size:
            wheels = wheels._replace(receipts=_longer(wheels.receipts, found.shape[1]))
    for thread, of_thread in enumerate(window):
        needed = int(of_thread["awaited"]) // number("CHUNK") + int(of_thread["spare"])
        if of_thread["free_chunks"] <= needed:
            known = max(len(wheels.next_chunk), len(wheels.units) // _UNITS_OF_CHUNK)
            more = max(_CHUNKS, known // len(window)) + needed
            wheels = _with_chunks(wheels, of_thread, more)
        if notes is not None and notes[thread, 0]["packet"] < 0:
            wheels = _with_held(wheels, notes[thread], max(_HELD, len(wheels.held) // len(window)))
    window["awaited"] = 0
    return wheels


def _with_chunks(wheels: Wheels, window: np.void, more: int) -> Wheels:
    """The wheels with `more` further chunks for one thread."""
    used = len(wheels.next_chunk)
    packets = zeros((used + more) * number("CHUNK"), record("Packet"))
    packets[: len(wheels.packets)] = wheels.packets
    following = np.arange(used + 1, used + more + 1, dtype=np.int32)
    following[-1] = window["free_chunk"]
    window["free_chunk"] = used
    window["free_chunks"] += more
    return wheels._replace(packets=packets, next_chunk=np.concatenate([wheels.next_chunk, following]))


def _with_held(wheels: Wheels, notes: Array, more: int) -> Wheels:
    """The wheels with `more` records for queued packets of one thread, which has none left."""
    used = len(wheels.held)
    held, following = zeros(used + more, record("Packet")), np.arange(1, used + more + 1, dtype=np.int32)
    held[:used], following[:used], following[-1] = wheels.held, wheels.next_held, -1
    notes["packet"] = used
    return wheels._replace(held=held, next_held=following)


def with_timers(wheels: Wheels, timers: int, others: int) -> Wheels:
    """The wheels with room for `timers` timers of each thread."""
    if timers <= wheels.timers.shape[1]:
        return wheels
    longer = np.zeros((len(wheels.timers), timers), dtype=record("Timer"))
    for of_thread, before, window in zip(longer, wheels.timers, wheels.window[:, 0], strict=True):
        of_thread[: window["timers"]] = before[: window["timers"]]
    return wheels._replace(timers=longer, inside=longer_heap(wheels.inside, others + timers))


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    """An array with longer rows."""
    longer = zeros(len(array) * size, array.dtype).reshape(len(array), size)
    longer[:, : array.shape[1]] = array
    return longer


LINKS_OF_REGION, _MOST_REGIONS, _OF_THREAD = 512, 256, 2
"""Least links of a region; most regions; least regions of each thread, of hosts and of switches."""

OF_HOSTS, OF_SWITCHES = range(2)
"""Regions of hosts come first in a window, those of switches after them."""


def regions_of(state: State, threads: int) -> int:
    """Number of regions: the first half are of hosts, the others of switches, or there is only one.

    A power of two for one thread; several have as many each, of either kind.
    """
    regions = max(1, min(len(state.network.links) // LINKS_OF_REGION, _MOST_REGIONS))
    regions = 1 << (regions.bit_length() - 1)
    return regions if threads == 1 else 2 * threads * max(_OF_THREAD, regions // (2 * threads))


def region_of_units(state: State, nodes: int, regions: int, threads: int) -> np.ndarray:
    """Region of each unit: of links by the node at which they begin, then of nodes.

    Links inside hosts are the leader's if there are several threads: they take part when tasks begin.
    """
    routing, half = state.routing, regions // 2
    of_node, switches = np.zeros(nodes, dtype=np.int16), np.setdiff1d(routing.source, routing.source[routing.up])
    of_node[switches] = np.arange(len(switches)) * half // max(1, len(switches)) + half
    region, hosts = np.concatenate([of_node[routing.source], of_node]), np.arange(len(routing.up))
    region[routing.up] = region[routing.inside] = hosts * half // len(hosts)
    if threads > 1:
        region[routing.inside] = 0
    return region


def owners_of(regions: int, threads: int) -> np.ndarray:
    """Thread of each region."""
    return (np.arange(regions) % max(1, regions // 2) % threads).astype(np.int32)


class WindowedEngine(EventEngine):
    """One run; outcomes do not depend on `threads`. `netsim.engine.windowed.refusal` lists runs that it refuses."""

    _impatient: tuple[int, int, Waiting] | None = None
    """Time, flow id and reason of the first flow that lost its patience; the run ends with the window."""

    def __init__(
        self,
        scene: Scene,
        transport: Transport,
        seed: int,
        fabric: FabricArrays | None = None,
        report: Callable[[Pulse], None] | None = None,
        threads: int = 1,
    ) -> None:
        self._threads = threads
        super().__init__(scene, transport, seed, fabric, report)

    def run(self) -> Outcome:
        """Simulates the scene."""
        with ThreadPoolExecutor(self._threads, "netsim") as self._others:
            return super().run()

    def _prepare(self, state: State) -> None:
        network = state.network
        links, rules = network.links, network.rules[0]
        delay_ps = network.kinds["delay_ps"][links["kind"]]
        between = delay_ps[links["reverse"] != np.arange(len(links))]
        by_switch = state.queued is not None or bool(
            rules["choice"] in (number("AT_SWITCH"), number("AT_FIRST_SWITCH"))
        )
        self._shares = shares_of(state, self._threads)
        self._wheels = wheels_of(state, int(between.min()), by_switch, self._threads)
        self._stops: list[tuple[int, str]] = []
        self._stopped, self._resumed, self._now_ps = LEADER, [-1] * self._threads, int(network.totals["now_ps"][0])
        self._keep(state)

    def _keep(self, state: State) -> None:
        self._shares = with_longer_timers(self._shares, state)
        of_threads = [share_of(state, self._shares, thread) for thread in range(self._threads)]
        super()._keep(of_threads[LEADER])
        self._arrays_of_threads = [arrays_of(of_thread) for of_thread in of_threads]

    def _go_on(self, resumed: int) -> str:
        """Returns why a thread has stopped, thread by thread; after the last of them all threads simulate again.

        The leader's time and flow are those of the thread whose stop is returned.
        """
        totals = self._shares.totals[:, 0]
        self._resumed[self._stopped] = resumed
        if not self._stops:
            totals["now_ps"][LEADER] = self._now_ps
            self._stops = self._simulate()
            self._now_ps = int(totals["now_ps"][LEADER])
        self._stopped, why = self._stops.pop(0)
        for name in ("asks", "now_ps"):
            totals[name][LEADER] = totals[name][self._stopped]
        if why == "FINISHED":
            add_up(self._shares)
        return "IN_TIME" if self._impatient is not None and why == "FINISHED" else why

    def _simulate(self) -> list[tuple[int, str]]:
        """Lets all threads simulate until some must stop; returns which, and why."""
        self._wheels = with_timers(self._wheels, len(self._state.hosts.timers), 2 * len(self._state.hosts.rings))
        common = tuple(self._shares), tuple(self._wheels)
        calls = [
            (arrays, *common, thread, flow)
            for thread, (arrays, flow) in enumerate(zip(self._arrays_of_threads, self._resumed, strict=True))
        ]
        others = [self._others.submit(_core.run_windows, *call) for call in calls[LEADER + 1 :]]
        reasons = [_core.run_windows(*calls[LEADER]), *(other.result() for other in others)]
        self._resumed = [-1] * self._threads
        return [(thread, names("Stop")[why]) for thread, why in enumerate(reasons) if why != number("GOES_ON")]

    def _make_room(self) -> None:
        self._wheels = with_capacity(self._wheels, None if self._state.queued is None else self._shares.notes)
        self._keep(with_capacity_for_waiting(self._state, len(self._wheels.held)))

    def _flows_of_packets(self) -> list[np.ndarray]:
        return [self._wheels.packets["flow"], self._wheels.held["flow"]]

    def _lose_patience(self, record: np.void) -> None:
        """Notes an impatient flow and lets the window end, as other hosts may not have come as far in time."""
        network, task = self._state.network, int(record["task"])
        moment = int(network.totals["now_ps"][0]), int(record["id"])
        if self._impatient is None or moment < self._impatient[:2]:
            self._impatient = *moment, self._waiting(task)
            network.rules["end_ps"] = network.rules["limit_ps"] = moment[0]

    def _reached(self, which: Which, task: int | None = None) -> Refusal:
        if self._impatient is None:
            return super()._reached(which, task)
        now_ps, _, waiting = self._impatient
        program = self._state.program
        done = int(
            ((program.waits_for == number("DONE")) & (program.end_ps <= now_ps) | (program.background > 0)).sum()
        )
        return reached(self._scene.limits, "fruitless", Pulse(now_ps, done, len(program.end_ps)), waiting)
