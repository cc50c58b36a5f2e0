"""The event engine: the semantics of the reference engine, in the compiled core.

The compiled loop stops only where arrays are full, or where a flow's path has failed: then, as in the reference engine,
the Python object of the transport chooses another. The outcome of the run is read from the arrays at its end.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from netsim.engine import _core
from netsim.engine.core.arrays import END_PS
from netsim.engine.core.fabric import FabricArrays, fabric_arrays
from netsim.engine.core.shared import names, number
from netsim.engine.event.finished import by_id, can_forget, figures_of, without_finished
from netsim.engine.event.growth import (
    with_avoided,
    with_capacity_for_choices,
    with_capacity_for_flows,
    with_capacity_for_packets,
    with_capacity_for_released,
    with_capacity_for_waiting,
    with_capacity_in_calendar,
)
from netsim.engine.event.layout import flight_of, state_of
from netsim.engine.event.state import Array, State
from netsim.engine.frontier import is_cut_off, stalled
from netsim.engine.limits import Clock, Pulse, Waiting, Which, missing, not_begun, reached, refused
from netsim.engine.protocol import LINK, Losses, Outcome, QueueSeries, Scene
from netsim.engine.watch import SAMPLE, Watched
from netsim.foundation.refusal import Refusal
from netsim.foundation.units import PICOSECONDS_PER_SECOND
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Flow, Transport


def outcome_of(scene: Scene, state: State, finished: list[np.ndarray]) -> Outcome:
    """The outcome of a finished run; `finished`, figures of flows that have left the state, is emptied."""
    totals, program = state.network.totals[0], state.program
    flows = by_id([*_emptied(finished), figures_of(state, np.arange(totals["flows"]))])
    outcome = Outcome(
        completion_ps=int(program.end_ps.max(initial=0)),
        task_end_ps=program.end_ps,
        packets=int(totals["packets"]),
        packet_hops=int(totals["hops"]),
        control_hops=int(totals["control_hops"]),
        losses=Losses(
            int(totals["dropped"]), int(totals["trimmed"]), int(totals["marked"]), int(flows["retransmitted"].sum())
        ),
        flows=flows.view(np.recarray),
        links=links_of(state),
        queues=QueueSeries(1 << int(totals["width_bits"]), state.network.longest[: totals["used"]].copy()),
        last_sent=last_sent(state),
        watched=_watched(scene, state),
    )
    if not scene.ends_early:
        return outcome
    records = state.hosts.flows[: totals["flows"]]
    left = records["left"][np.argsort(records["id"])]
    return outcome.without_rest(int(totals["now_ps"]), left, scene.tasks.in_background)


def _watched(scene: Scene, state: State) -> Watched | None:
    if scene.watch is None:
        return None
    network, hosts = state.network, state.hosts
    width_bits, used = network.carried_shape.tolist()
    rows = [rows[:count] for rows, count in zip(hosts.samples, hosts.sampled[:, number("COUNT")].tolist(), strict=True)]
    samples = [unstructured_to_structured(row, SAMPLE) for row in rows]
    tasks: list[int] = np.flatnonzero(hosts.slots >= 0).tolist()
    return Watched(1 << width_bits, network.carried[:, :used].copy(), tasks, samples)


def _emptied(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Empties a list and returns its parts."""
    taken = parts.copy()
    parts.clear()
    return taken


_SMALL_BYTES = 1 << 20
"""Packets up to this size have products of bits and picoseconds that fit into 64 bits."""


def links_of(state: State) -> np.recarray:
    """Figures of each link, including acknowledgements that passed without an event (`transit._return_at_once`)."""
    network, routing = state.network, state.routing
    flows = state.hosts.flows[: network.totals["flows"][0]]
    links = network.links
    records = np.zeros(len(links), dtype=LINK)
    records["bytes"], records["busy_ps"], records["max_queue_ps"] = (
        links["bytes"],
        links["busy_ps"],
        links["longest_ps"],
    )
    if state.queued is not None:
        records["paused_ps"] = state.queued.queues["paused_ps"].reshape(len(links), -1).sum(axis=1)
    acks, acknowledged = np.zeros(len(links), dtype=np.int64), np.flatnonzero(routing.route_acks)
    for end in ("up", "down"):
        np.add.at(acks, links["reverse"][flows[end]], flows["acks"])
    route_links, of_route = routing.route_links[acknowledged], routing.route_acks[acknowledged]
    route, hop = np.nonzero(route_links >= 0)
    np.add.at(acks, links["reverse"][route_links[route, hop]], of_route[route])
    records["bytes"] += acks * network.rules["ack_wire"][0]
    return records.view(np.recarray)


def last_sent(state: State) -> dict[int, int]:
    """Remaining passage of the last data packet, for each link that hosts send on, without queues, in picoseconds."""
    sending = np.flatnonzero(state.hosts.rings["last_flow"] >= 0)
    links = sending // int(state.network.rules["classes"][0])
    return dict(zip(links.tolist(), _rest_ps(state, sending, links).tolist(), strict=True))


def _rest_ps(state: State, sending: np.ndarray, sent_on: np.ndarray) -> np.ndarray:
    """Remaining passage of the last packet of each ring that sends, at nominal rates; the least of its routes."""
    network, routing, kind = state.network, state.routing, state.network.links["kind"]
    rings = state.hosts.rings[sending]
    flows = state.hosts.flows[rings["last_flow"]]
    rest_ps = network.kinds["delay_ps"][kind[sent_on]]
    away = np.flatnonzero(flows["links"] != 1)
    rings, flows = rings[away], flows[away]
    rest_ps[away] += _passage_ps(network.kinds, kind[flows["down"]], rings["last_wire"])
    row = flows["pair"].astype(np.int64) * int(network.rules["epochs"][0]) + rings["last_epoch"]
    first, unknown = routing.usable_begin[row], rings["last_path"] < 0
    choices = np.where(unknown, routing.usable_begin[row + 1] - first, 1)
    place = np.repeat(np.arange(len(away)), choices)
    nth, path = np.arange(len(place)) - np.repeat(np.cumsum(choices) - choices, choices), rings["last_path"][place]
    path[unknown[place]] = routing.usable[(first[place] + nth)[unknown[place]]]
    links = routing.route_links[flows["first_route"][place] + path]
    passage_ps = _passage_ps(network.kinds, kind[links], rings["last_wire"][place, None])
    least_ps = np.full(len(away), END_PS)
    np.minimum.at(least_ps, place, np.where(links >= 0, passage_ps, 0).sum(axis=1))
    rest_ps[away] += least_ps
    return rest_ps


def _passage_ps(kinds: np.ndarray, kind: np.ndarray, wire_bytes: np.ndarray) -> np.ndarray:
    """Passage of packets over links of some kinds in picoseconds; large sizes do not overflow."""
    size = wire_bytes.astype(object) if wire_bytes.max(initial=0) > _SMALL_BYTES else wire_bytes
    service_ps = -(-8 * PICOSECONDS_PER_SECOND * size // kinds["rate_bps"][kind])
    return service_ps.astype(np.int64) + kinds["delay_ps"][kind]


Arrays = tuple[tuple[Array, ...] | None, ...]
_STOPS_BETWEEN_LOOKS = 1024
"""Returns of the compiled loop between two reads of the clock; a return may come soon."""
FEWEST_FLOWS = 1 << 14
"""Least number of flows for which the arrays have room."""


def arrays_of(state: State) -> Arrays:
    """The fields of a state as plain tuples, which are passed to compiled code faster than named ones."""
    return tuple(None if part is None else tuple(part) for part in state)


class EventEngine:
    """One run of a scene that `netsim.engine.event.refusal` accepts."""

    def __init__(
        self,
        scene: Scene,
        transport: Transport,
        seed: int,
        fabric: FabricArrays | None = None,
        report: Callable[[Pulse], None] | None = None,
    ) -> None:
        self._scene, self._transport = scene, transport
        self._clock = Clock(scene.limits, report)
        state = state_of(scene, fabric or fabric_arrays(scene), transport, seed)
        self._moves = type(transport).on_timeout is not Transport.on_timeout
        self._cuts = type(transport).admit is not Transport.admit
        self._finished: list[np.ndarray] = []
        if not can_forget(state) and state.network.rules["admission"][0] != number("BALANCED"):
            sizes, parts = scene.tasks.columns().bytes, int(state.network.rules["parts"][0])
            packets = int((sizes[sizes > 0] // scene.packet.payload + parts).sum())
            state = with_capacity_for_flows(state, int(np.minimum(sizes, parts).sum()), packets)
        self._prepare(state)

    def run(self) -> Outcome:
        """Simulates until all tasks are done."""
        resumed, stops = -1, 0
        while (why := self._go_on(resumed)) != "FINISHED":
            resumed, stops = -1, stops + 1
            if why == "PAUSED" or not stops % _STOPS_BETWEEN_LOOKS:
                self._look_at_clock()
            match why:
                case "NEEDS_FLOWS":
                    self._make_room_for_flows()
                case "ASKS_FOR_PATH":
                    self._give_path()
                case "ASKS_AFTER_TIMEOUT":
                    resumed = self._settle_timeout()
                case "IN_TIME":
                    raise self._reached_in_time()
                case "NEEDS_ROOM":
                    self._keep(with_capacity_for_choices(self._state))
                    self._make_room()
        if self._state.network.totals["undone"][0]:
            raise stalled(self._scene, self._waiting_tasks())
        return outcome_of(self._scene, self._state, self._finished)

    def _prepare(self, state: State) -> None:
        """Sets the initial state and an empty calendar."""
        self._keep(state)
        self._flight = flight_of(state)

    def _go_on(self, resumed: int) -> str:
        """Simulates until the core needs Python; returns why, a name of `Stop`. `resumed`: a timed-out flow, or -1."""
        return names("Stop")[_core.run_events(self._arrays, tuple(self._flight), resumed)]

    def _make_room(self) -> None:
        """Makes room for packets in flight."""
        self._flight = with_capacity_in_calendar(with_capacity_for_packets(self._flight, self._state), self._state)
        self._keep(with_capacity_for_waiting(self._state, len(self._flight.packets)))

    def _flows_of_packets(self) -> list[np.ndarray]:
        """Arrays with the flow of each packet record, whether the packet is in flight or not."""
        return [self._flight.packets["flow"]]

    def _make_room_for_flows(self) -> None:
        """Makes room for the flows of released messages: removes ended flows if possible, and extends the arrays."""
        if can_forget(self._state) and self._state.network.totals["flows"][0]:
            self._finished.append(without_finished(self._state, self._flows_of_packets()))
        room = 2 * int(self._state.network.totals["flows"][0])
        self._keep(with_capacity_for_released(with_capacity_for_flows(self._state, max(room, FEWEST_FLOWS), 0)))

    def _keep(self, state: State) -> None:
        """Replaces the state, whose arrays may have been extended."""
        self._state = state
        self._arrays = arrays_of(state)

    def _flow(self, record: np.void) -> Flow:
        """Returns a record of the core as the `Flow` that transports take."""
        message = self._scene.release(int(record["task"]), int(record["start_ps"]))
        return Flow(int(record["id"]), message, int(record["bytes"]), int(record["path"]))

    def _give_path(self) -> None:
        """Lets the transport choose a new path for a flow whose path the routing no longer takes as usable."""
        totals = self._state.network.totals[0]
        index, now_ps = int(totals["asks"]), int(totals["now_ps"])
        record = self._state.hosts.flows[index]
        usable, serial = self._usable(record, now_ps), int(record["serial"])
        record["path"] = self._transport.choose_path(self._flow(record), serial, usable, now_ps)

    def _settle_timeout(self) -> int:
        """Lets the transport choose another path after a timeout, and gives the flow up if it is cut off for good."""
        network, hosts = self._state.network, self._state.hosts
        index, now_ps = int(network.totals["asks"][0]), int(network.totals["now_ps"][0])
        record = hosts.flows[index]
        usable = self._usable(record, now_ps)
        if self._cuts:
            path, flow = int(record["path"]), self._flow(record)
            record["path"] = self._transport.on_timeout(flow, path, usable, now_ps)
            self._note_avoided((flow.message.paths[0][0], flow.message.dst_leaf, path))
        if record["fruitless"] >= self._state.network.rules["patience"][0]:
            record["given_up"] = self._is_hopeless(record, usable, now_ps)
        return index

    def _note_avoided(self, route: tuple[int, int, int]) -> None:
        """Hands the compiled admission the time until which ethereal avoids a route that has failed a flow."""
        if isinstance(self._transport, Ethereal) and route in self._transport.bad_until:
            self._keep(with_avoided(self._state, route, self._transport.bad_until[route]))

    def _is_hopeless(self, record: np.void, usable: tuple[int, ...], now_ps: int) -> bool:
        """Whether more timeouts are useless: the flow is cut off, or has arrived but gets no acknowledgement."""
        taken = usable if record["path"] < 0 or self._moves else (int(record["path"]),)
        if is_cut_off(self._scene, self._scene.routes.paths(*self._ends(record)), taken, now_ps):
            return True
        if record["fruitless"] < self._scene.limits.fruitless:
            return False
        if record["left"] or record["end_ps"] > now_ps:
            self._lose_patience(record)
        return True

    def _lose_patience(self, record: np.void) -> None:
        """Raises the error of a flow that has not arrived after the allowed number of timeouts in a row."""
        raise self._reached("fruitless", int(record["task"]))

    def _look_at_clock(self) -> None:
        if self._clock.is_over(self._pulse()) and self._state.network.totals["undone"][0]:
            raise self._reached("wall")

    def _pulse(self) -> Pulse:
        totals, tasks = self._state.network.totals[0], len(self._scene.tasks)
        return Pulse(int(totals["now_ps"]), tasks - int(totals["undone"]), tasks)

    def _reached_in_time(self) -> Refusal:
        """The error of a run at its limit of simulated time, or after its last allowed round without progress."""
        totals = self._state.network.totals[0]
        if totals["fruitless"] < self._scene.limits.fruitless:
            return self._reached("simulated")
        tasks, task, pulse = self._waiting_tasks(), int(totals["refused"]), self._pulse()
        waiting = self._waiting(task if task in tasks else tasks[0], rounds=True)
        return reached(self._scene.limits, "refused", pulse._replace(now_ps=pulse.now_ps + 1), waiting)

    def _reached(self, which: Which, task: int | None = None) -> Refusal:
        """The error for a limit that was reached. It names `task`; None: the first task that waits."""
        index = self._waiting_tasks()[0] if task is None else task
        return reached(self._scene.limits, which, self._pulse(), self._waiting(index))

    def _waiting_tasks(self) -> list[int]:
        """Tasks that are not done although they wait for no other, background traffic aside."""
        program = self._state.program
        return np.flatnonzero((program.waits_for == 0) & (program.background == 0)).tolist()

    def _waiting(self, task: int, rounds: bool = False) -> Waiting:
        """Describes a task that waits, and its reason; `rounds`: the run ends after rounds without progress.

        The state may hold arrivals that lie in the future.
        """
        totals, waits = self._state.network.totals[0], self._scene.tasks[task]
        flows = self._state.hosts.flows[: totals["flows"]]
        flows = flows[flows["task"] == task]
        missed = (flows["left"] > 0) | (flows["end_ps"] > totals["now_ps"])
        packets = int(flows["packets"].sum())
        why = missing(packets, int(flows["fruitless"][missed].max(initial=0)))
        if rounds:
            why = refused(packets, self._scene.limits.fruitless)
        if not len(flows):
            why = not_begun(waits.delay_ps)
        return Waiting(waits.src, waits.dst, waits.bytes, why)

    def _usable(self, record: np.void, now_ps: int) -> tuple[int, ...]:
        routes = self._scene.routes
        return routes.usable(*self._ends(record), routes.epoch(now_ps))

    def _ends(self, record: np.void) -> tuple[int, int]:
        program = self._state.program
        return int(program.src_host[record["task"]]), int(program.dst_host[record["task"]])
