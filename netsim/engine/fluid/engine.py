"""Flow-level engine: messages are streams of bytes that share every link at max-min fair rates.

There are no packets and no queues: congestion control is taken to be perfect. A flow with a path of its own keeps to
it. A sprayed one spreads evenly over all usable paths, an ideal one in proportion to their rates at each moment. A link
that is down carries nothing, and the flows that need it wait until it is up again or the routing has noticed.
"""

from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from netsim.engine.fluid.admission import Admission
from netsim.engine.fluid.flows import Segments
from netsim.engine.fluid.network import Network
from netsim.engine.limits import Clock, Pulse, Waiting, not_begun, reached
from netsim.engine.protocol import FLOW, LINK, Losses, Outcome, QueueSeries, Scene
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import service_ps
from netsim.transport.protocol import Transport
from netsim.workload.tasks import TaskColumns


class Due(Enum):
    """Kinds of events."""

    ARRIVAL = "the last bytes of flows arrive"
    BEGINNING = "the delay of tasks is over"
    START = "delayed flows start"
    CHANGE = "links, or what the routing knows of them, change"


class Calendar:
    """Pending events, in order of time and, within an instant, in the order in which they were added."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Due, np.ndarray]] = []
        self._noted = 0

    def note(self, what: Due, indices: np.ndarray, times_ps: np.ndarray) -> None:
        """Adds an event for each of some tasks or flows, each at its own time."""
        if len(times_ps) > 1:
            order = np.argsort(times_ps, kind="stable")
            times_ps, indices = times_ps[order], indices[order]
        begins = [0, *(np.flatnonzero(times_ps[1:] != times_ps[:-1]) + 1).tolist(), len(times_ps)]
        for begin, end in pairwise(begins):
            if begin < end:
                heappush(self._entries, (int(times_ps[begin]), self._noted, what, indices[begin:end]))
                self._noted += 1

    def next_ps(self) -> int | None:
        """Time of the next event, None if there is none."""
        return self._entries[0][0] if self._entries else None

    def take(self, now_ps: int) -> tuple[Due, np.ndarray] | None:
        """Takes the next event that is due by now, None if there is none."""
        if not self._entries or self._entries[0][0] > now_ps:
            return None
        _, _, what, indices = heappop(self._entries)
        return what, indices


_DONE = -1
"""Count of a finished task."""


class Dependencies:
    """For each task, the number of unfinished tasks for which it waits."""

    def __init__(self, tasks: TaskColumns) -> None:
        self._waits_for = np.diff(tasks.after_begin)
        self.roots = np.flatnonzero(self._waits_for == 0)
        self.undone = len(self._waits_for)
        waiting = np.repeat(np.arange(self.undone), self._waits_for)
        self._successors = waiting[np.argsort(tasks.after, kind="stable")]
        counts = np.bincount(tasks.after, minlength=self.undone)
        self._begin = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])

    def done(self, tasks: np.ndarray) -> np.ndarray:
        """Notes that tasks are done and returns those that no longer wait for anything, ascending."""
        self.undone -= len(tasks)
        self._waits_for[tasks] = _DONE
        begin, following = self._begin[tasks], self._begin[tasks + 1] - self._begin[tasks]
        if not following.any():
            return np.zeros(0, dtype=np.int64)
        rows = np.arange(following.sum()) + np.repeat(begin - (np.cumsum(following) - following), following)
        successors = self._successors[rows]
        np.subtract.at(self._waits_for, successors, 1)
        return np.unique(successors[self._waits_for[successors] == 0])

    def first_waiting(self) -> int:
        """The first task that is not done although it waits for no other."""
        return int(np.flatnonzero(self._waits_for == 0)[0])


_EVENTS_BETWEEN_LOOKS = 64
"""Changes of rates between two reads of the clock."""


class FluidEngine:
    """One run; transport None is ideal. Times are whole picoseconds: a message that would end in less than one ends
    now.

    After its last byte has left, a message still takes the propagation delays and, as a packet would, the service of
    its last packet on each link but the first; so a message alone takes exactly its store-and-forward time.
    """

    def __init__(
        self, scene: Scene, transport: Transport | None = None, report: Callable[[Pulse], None] | None = None
    ) -> None:
        self._clock, self._looked = Clock(scene.limits, report), 0
        self._scene, self._tasks = scene, scene.tasks.columns()
        self._dependencies = Dependencies(self._tasks)
        self._segments = Segments(len(scene.topology.links))
        self._admission = Admission(scene, self._tasks, transport, self._segments)
        self._paths_change = len(scene.routes.times) > 1 or (transport is None and bool(scene.rates.changes))
        self._network = Network(scene, self._segments)
        self._calendar = Calendar()
        self._released: list[np.ndarray] = []
        self._flows_left = np.zeros(len(scene.tasks), dtype=np.int64)
        self._task_end_ps = np.zeros(len(scene.tasks), dtype=np.int64)
        self._moved: list[tuple[np.ndarray, np.ndarray]] = []
        self._sent_ps = np.full(len(scene.topology.links), -1, dtype=np.int64)
        self._rest_ps = np.zeros(len(scene.topology.links), dtype=np.int64)

    @property
    def allocations(self) -> int:
        """Number of allocations of rates so far, each certified to be max-min fair."""
        return self._network.allocations

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        now = 0
        rates, routes = self._scene.rates, self._scene.routes
        times = {time for steps in rates.changes.values() for time, _ in steps} | {*routes.times}
        changes = np.array(sorted(times - {0}), dtype=np.int64)
        self._calendar.note(Due.CHANGE, changes, changes)
        self._begin(self._undelayed(self._dependencies.roots, now), now)
        self._admit(now)
        while self._dependencies.undone:
            self._network.allocate(now)
            times = [time for time in (self._calendar.next_ps(), self._network.next_end_ps(now)) if time is not None]
            if not times:
                raise self._stalled()
            now = self._within_limits(now, min(times))
            self._drain(now)
            self._turn_over(now)
        return self._outcome()

    def _within_limits(self, now: int, next_ps: int) -> int:
        """The time of the next event; raises if the run has reached a limit before it."""
        limits, tasks = self._scene.limits, len(self._scene.tasks)
        done = tasks - self._dependencies.undone
        if next_ps > limits.simulated:
            raise reached(limits, "simulated", Pulse(limits.simulated, done, tasks), self._first_waiting())
        self._looked += 1
        if not self._looked % _EVENTS_BETWEEN_LOOKS and self._clock.is_over(pulse := Pulse(now, done, tasks)):
            raise reached(limits, "wall", pulse, self._first_waiting())
        return next_ps

    def _first_waiting(self) -> Waiting:
        index = self._dependencies.first_waiting()
        task, begun = self._scene.tasks[index], self._network.flows.task[: self._network.count]
        why = "its bytes are on their way" if index in begun else not_begun(task.delay_ps)
        return Waiting(task.src, task.dst, task.bytes, why)

    def _drain(self, now: int) -> None:
        """Schedules the arrival of the last bytes of flows that have sent everything by now."""
        sent, latency_ps = self._network.drain(now)
        if not len(sent):
            return
        flows = self._network.flows
        flows.end_ps[sent] = now + latency_ps
        self._calendar.note(Due.ARRIVAL, sent, now + latency_ps)
        first = flows.segments[sent, 0]
        self._rest_ps[first[self._sent_ps[first] < now]] = 0
        self._sent_ps[first] = now
        np.maximum.at(self._rest_ps, first, latency_ps)

    def _turn_over(self, now: int) -> None:
        """Processes all events that are due by `now`."""
        started: list[np.ndarray] = []
        while (due := self._calendar.take(now)) is not None:
            what, indices = due
            match what:
                case Due.ARRIVAL:
                    self._begin(self._undelayed(self._done(self._arrived(indices), now), now), now)
                case Due.BEGINNING:
                    self._begin(indices, now)
                case Due.START:
                    started.append(indices)
                case Due.CHANGE:
                    self._network.change_links(now)
                    self._reroute(self._network.active, now)
        self._admit(now)
        for flows in started:
            self._reroute(flows, now)
            self._network.start(flows, now)

    def _arrived(self, flows: np.ndarray) -> np.ndarray:
        """Counts flows that have arrived, and returns the tasks that have no other flow left."""
        tasks = self._network.flows.task[flows]
        np.subtract.at(self._flows_left, tasks, 1)
        return np.unique(tasks[self._flows_left[tasks] == 0])

    def _done(self, tasks: np.ndarray, now: int) -> np.ndarray:
        """Sets the end of tasks; returns the successors that no longer wait for any task."""
        self._task_end_ps[tasks] = now
        return self._dependencies.done(tasks)

    def _undelayed(self, ready: np.ndarray, now: int) -> np.ndarray:
        """Returns the ready tasks without a delay, and schedules the begin of the others."""
        delay_ps = self._tasks.delay_ps[ready]
        late = delay_ps > 0
        self._calendar.note(Due.BEGINNING, ready[late], now + delay_ps[late])
        return ready[~late]

    def _begin(self, tasks: np.ndarray, now: int) -> None:
        """Releases the messages of tasks; tasks without a message are done, and their successors begin."""
        while len(tasks):
            moves = self._tasks.bytes[tasks] > 0
            self._released.append(tasks[moves])
            tasks = self._undelayed(self._done(tasks[~moves], now), now)

    def _admit(self, now: int) -> None:
        """Turns the messages released in this instant into flows, and starts those without a delay."""
        if not sum(map(len, self._released)):
            return
        new = self._admission.admit(np.sort(np.concatenate(self._released)), now)
        self._released.clear()
        np.add.at(self._flows_left, new.task, 1)
        flows = self._network.add(
            id=new.id,
            task=new.task,
            bytes=new.bytes,
            route=new.route,
            start_ps=np.full(len(new.id), now),
            segments=self._admission.segments_of(new.task, new.route, now),
        )
        late = new.delay_ps > 0
        self._calendar.note(Due.START, flows[late], now + new.delay_ps[late])
        self._network.start(flows[~late], now)

    def _reroute(self, which: np.ndarray, now: int) -> None:
        """Moves flows off paths that are no longer usable, and spreads spreading flows anew."""
        if not self._paths_change or not len(which):
            return
        flows, packet = self._network.flows, self._scene.packet
        sent = self._network.sent_bytes(which, now)
        serial = np.ceil(sent / (packet.payload + packet.header)).astype(np.int64)
        flows.route[which] = self._admission.rerouted(flows, which, serial, now)
        before = flows.segments[which, 1]
        flows.segments[which] = self._admission.segments_of(flows.task[which], flows.route[which], now)
        self._moved += [(before, sent), (flows.segments[which, 1], -sent)]

    def _stalled(self) -> Refusal:
        """The error for flows whose links stay down."""
        flows = self._network.flows
        task = self._scene.tasks[int(flows.task[self._network.active].min())]
        problem = f"{len(self._network.active)} messages never arrive, among them one of {task.bytes} B from"
        remedy = "let the failure end (until), or the routing notice it (noticed_after)"
        return Refusal("scenario", "topology.failures", f"{problem} rank {task.src} to rank {task.dst}", remedy)

    def _outcome(self) -> Outcome:
        flows = self._network.flows
        every = np.argsort(flows.id[: self._network.count])
        records = np.zeros(len(every), dtype=FLOW)
        task = flows.task[every]
        for name, column in (
            ("id", flows.id[every]),
            ("task", task),
            ("src", self._tasks.src[task]),
            ("dst", self._tasks.dst[task]),
            ("bytes", flows.bytes[every]),
            ("start_ps", flows.start_ps[every]),
            ("end_ps", flows.end_ps[every]),
        ):
            records[name] = column
        return Outcome(
            completion_ps=int(self._task_end_ps.max(initial=0)),
            task_end_ps=self._task_end_ps,
            packets=0,
            packet_hops=0,
            control_hops=0,
            losses=Losses(),
            flows=records.view(np.recarray),
            links=self._links(every).view(np.recarray),
            queues=QueueSeries(1, np.zeros(0, dtype=np.int64)),
            last_sent={link: int(self._rest_ps[link]) for link in np.flatnonzero(self._sent_ps >= 0).tolist()},
            certified_allocations=self.allocations,
        )

    def _links(self, every: np.ndarray) -> np.ndarray:
        """Bytes and busy time of each link. Bytes of a rerouted flow count on the route on which they were sent."""
        fabric = self._segments.arrays()
        carried = np.zeros(len(fabric.first_route))
        wire_bytes = self._network.wire_bytes(every)
        for parts in self._network.flows.segments[every].T:
            carried += np.bincount(parts, wire_bytes, len(carried))
        for parts, sent in self._moved:
            carried += np.bincount(parts, sent, len(carried))
        segment = np.repeat(np.arange(len(carried)), np.diff(fabric.begin))
        loads = np.bincount(fabric.link, carried[segment] * fabric.share, len(fabric.link_begin) - 1)
        sizes = [round(load) for load in loads.tolist()]
        rates = self._scene.rates.initial
        return np.array(
            [(size, service_ps(size, rate), 0, 0) for size, rate in zip(sizes, rates, strict=True)], dtype=LINK
        )
