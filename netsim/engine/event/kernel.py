"""The event engine's loop."""

import numpy as np

from netsim.engine.event.calendar import ARRIVAL, END, END_PS, RELEASE, SEND, close, first_time, is_pull, take_first
from netsim.engine.event.compiled import called, compiled
from netsim.engine.event.congestion import ASKED
from netsim.engine.event.credit import note, pull
from netsim.engine.event.cutting import admit
from netsim.engine.event.departures import depart, first_end, lacks_room, note_packet, schedule_departures
from netsim.engine.event.feedback import hear, is_back, run_out
from netsim.engine.event.flight import land, schedule_look, schedule_next_look, send
from netsim.engine.event.leaving import await_mark, mark_left
from netsim.engine.event.program import begin_roots, next_begin, next_begin_ps
from netsim.engine.event.queued import link_of, ring_of
from netsim.engine.event.rounds import begin_round
from netsim.engine.event.sender import look, resume
from netsim.engine.event.state import Array, Flight, Hosts, Network, Program, Queued, Record, Routing, State, Whole
from netsim.engine.event.transit import GONE, HELD, enter, next_link, receive

FINISHED, NEEDS_FLOWS, ASKS_FOR_PATH, ASKS_AFTER_TIMEOUT, NEEDS_ROOM, PAUSED, IN_TIME = range(7)
"""Why the loop stops: all tasks are done; released messages need room for their flows; a flow's path has failed; a flow
has timed out; the arrays of packets or of choices, or the calendar, are full; Python may look at the clock; simulated
time is limited to now, or no round bears fruit."""

_EVENTS_BETWEEN_PAUSES = 1 << 20


@called
def run(arrays: tuple[tuple[Array, ...] | None, ...], in_flight: tuple[Array, ...], resumed: int) -> Whole:
    """Simulates until the loop must stop, and returns why; times and flows are in `Totals`.

    Fields of `State` and `Flight` come as tuples without names, which are quicker to hand over. `resumed` is a flow
    that goes on after a timeout, or -1.
    """
    parts = Network(*arrays[0]), Hosts(*arrays[1]), Program(*arrays[2]), Routing(*arrays[3])  # type: ignore[misc]
    state = State(*parts, queued_of(arrays[4]))
    flight = Flight(*in_flight)
    network, hosts, program = state.network, state.hosts, state.program
    calendar, timers, totals = flight.calendar, hosts.timers, network.totals[0]
    if totals.now_ps < 0:
        totals.now_ps = 0
        begin_roots(program, totals)
    if resumed >= 0:
        resume(state, resumed, totals.now_ps)
        _schedule_ring(state, flight, resumed)
    choices = len(state.routing.chosen)
    events = 0
    while True:
        events += 1
        if events == _EVENTS_BETWEEN_PAUSES:
            return PAUSED
        close(calendar)
        time_ps, key, what = first_time(calendar), calendar[1].key, calendar[1].what
        timer_ps, from_timers = first_time(timers), False
        if timer_ps < time_ps or (timer_ps == time_ps and timer_ps < END_PS and timers[1].key < key):
            time_ps, key, what, from_timers = timer_ps, timers[1].key, timers[1].what, True
        ending, end_ps = first_end(state.queued)
        if ending >= 0 and (end_ps < time_ps or (end_ps == time_ps and key >= END)):
            time_ps, key, what, from_timers = end_ps, END, ending, False
        else:
            ending = np.int64(-1)
        begin_ps = next_begin_ps(program)
        if totals.released and (min(begin_ps, time_ps) > totals.now_ps or (begin_ps > time_ps and key >= RELEASE)):
            flows = totals.flows
            if not admit(state):
                return NEEDS_FLOWS
            _schedule_admitted(state, flight, flows)
            continue
        if network.rules[0].ends_early and not totals.undone and min(begin_ps, time_ps) > totals.now_ps:
            return FINISHED
        if min(begin_ps, time_ps) > network.rules[0].end_ps and totals.undone and min(begin_ps, time_ps) < END_PS:
            if not begin_round(network.rules[0], totals, min(begin_ps, time_ps)):
                totals.now_ps = network.rules[0].end_ps
                return IN_TIME
            continue
        if begin_ps <= time_ps:
            if begin_ps == END_PS:
                return FINISHED
            totals.now_ps = begin_ps
            next_begin(program, totals, begin_ps)
            continue
        totals.now_ps = time_ps
        if from_timers and is_pull(key):
            if totals.free_packet < 0 or lacks_room(flight, state.queued):
                return NEEDS_ROOM
            take_first(timers)
            close(timers)
            _ask(state, flight, what, time_ps)
        elif from_timers:
            take_first(timers)
            close(timers)
            asks = run_out(state, what, key, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_AFTER_TIMEOUT
            _schedule_ring(state, flight, what)
        elif lacks_room(flight, state.queued):
            return NEEDS_ROOM
        elif key < ARRIVAL:
            depart(state, state.queued, flight, key, what, ending >= 0, time_ps)
        elif key < SEND:
            if totals.chosen == choices:
                return NEEDS_ROOM
            _arrive(state, flight, what, time_ps)
        else:
            place = totals.free_packet
            if place < 0:
                return NEEDS_ROOM
            packet = flight.packets[place]
            note_packet(state.queued, place)
            asks, arrives = look(state, what, packet, time_ps)
            if asks >= 0:
                totals.asks = asks
                return ASKS_FOR_PATH
            schedule_next_look(flight, hosts, what)
            if arrives != GONE:
                totals.free_packet = packet.next
                if arrives != HELD:
                    send(flight, place, link_of(state.queued, network.rules[0], what), arrives)
            schedule_departures(flight, state.network, state.queued)


@compiled
def _schedule_admitted(state: State, flight: Flight, begin: int) -> None:
    """Puts the links of the flows that have been admitted, those from `begin` on, on the calendar."""
    for index in range(begin, state.network.totals[0].flows):
        _schedule_ring(state, flight, index)


@compiled
def _schedule_ring(state: State, flight: Flight, index: int) -> None:
    """Puts the ring of a flow on the calendar if it looks for a packet."""
    flow = state.hosts.flows[index]
    schedule_look(flight, state.hosts, ring_of(state.queued, state.network.rules[0], flow))


@compiled
def _ask(state: State, flight: Flight, link: int, now: int) -> None:
    """The receiver behind a link asks for packets."""
    totals = state.network.totals[0]
    place = totals.free_packet
    packet = flight.packets[place]
    totals.free_packet = packet.next
    note_packet(state.queued, place)
    pull(state, link, packet, now)
    first = next_link(state, packet, now)
    arrives = enter(state, packet, first, now)
    if arrives == GONE:
        packet.next = totals.free_packet
        totals.free_packet = place
    elif arrives != HELD:
        send(flight, place, first, arrives)
    schedule_departures(flight, state.network, state.queued)


@compiled
def _arrive(state: State, flight: Flight, lane: int, now: int) -> None:
    """The first packet of a lane is at the end of its link; the calendar's first entry is that lane's."""
    index = land(flight, lane)
    packet = flight.packets[index]
    marks_leaving = state.network.rules[0].marks_leaving
    if marks_leaving:
        mark_left(state.network, flight, lane >> 1, now)
    flow, arrives = state.hosts.flows[packet.flow], GONE
    note_packet(state.queued, index)
    if is_back(packet):
        hear(state, packet, now)
        _schedule_ring(state, flight, np.int64(packet.flow))
    elif packet.hop < packet.links or _receive(state, packet, flow, now):
        link = next_link(state, packet, now)
        if marks_leaving:
            mark_left(state.network, flight, link, now)
        arrives = enter(state, packet, link, now)
        if arrives != GONE and arrives != HELD:
            send(flight, index, link, arrives)
            if marks_leaving:
                await_mark(state.network, flight, index, link)
        schedule_departures(flight, state.network, state.queued)
    if arrives == GONE:
        packet.next = state.network.totals[0].free_packet
        state.network.totals[0].free_packet = index


@compiled
def _receive(state: State, packet: Record, flow: Record, now: int) -> bool:
    """A packet is at its receiver, which may ask for more; returns whether an acknowledgement goes back."""
    answers = receive(state, packet, flow, now)
    if state.network.rules[0].congestion == ASKED:
        note(state.hosts, packet, flow, now)
    return answers


@compiled
def queued_of(part: tuple[Array, ...] | None) -> Queued | None:
    """The links with queues of a state, if it has any."""
    if part is None:
        return None
    return Queued(*part)
