"""Ends of transmissions, and words that stop and resume queues, on the calendar of the event engine.

A transmission has one of few durations. Those with the same one end in the order in which they began, so that a list is
their calendar; others are in the heap. All are where the order of links that end in one instant decides who is resumed:
if thresholds follow the memory, or if a word takes no time.
"""

import numpy as np

from netsim.engine.event.calendar import END, END_PS, push, take_first
from netsim.engine.event.compiled import compiled
from netsim.engine.event.flight import schedule_look, send
from netsim.engine.event.queued import finish, link_of, next_queue, serve_next, stop_or_resume, take_out
from netsim.engine.event.state import Flight, Network, Queued, State, Whole
from netsim.engine.event.transit import GONE, forward

SPARE = 16
"""Entries of the calendar that one event may need besides a word for each queue."""


@compiled
def note_packet(queued: Queued | None, index: int) -> None:
    """Notes which packet the next event is about."""
    if queued is not None:
        queued.notes[0].packet = index


@compiled
def first_end(queued: Queued | None) -> tuple[Whole, Whole]:
    """The link in the lists whose transmission ends first, or -1, and when."""
    link, first_ps = np.int64(-1), END_PS
    if queued is not None:
        for kind in range(len(queued.endings)):
            first = queued.endings[kind].first
            if first >= 0 and queued.served[first].ends_ps < first_ps:
                link, first_ps = np.int64(first), queued.served[first].ends_ps
    return link, first_ps


@compiled
def lacks_room(flight: Flight, queued: Queued | None) -> bool:
    """Whether the words of one event might not fit into the calendar."""
    if queued is None:
        return False
    return flight.calendar[0].time_ps + len(queued.queues) + SPARE > len(flight.calendar)


@compiled
def schedule_departures(flight: Flight, network: Network, queued: Queued | None) -> None:
    """Puts the end of the transmission that has begun, and the words that are sent, on the calendar."""
    if queued is not None:
        notes = queued.notes[0]
        if notes.begun >= 0:
            _schedule_end(flight, network, queued, np.int64(notes.begun))
            notes.begun = -1
        for row in range(notes.told):
            place = queued.told[row]
            news_ps = queued.served[link_of(queued, network.rules[0], place)].news_ps
            push(flight.calendar, network.totals[0].now_ps + news_ps, place, place)
        notes.told = 0


@compiled
def _schedule_end(flight: Flight, network: Network, queued: Queued, at: int) -> None:
    served = queued.served[at]
    kind = _kind(network, queued, at)
    if kind < 0:
        push(flight.calendar, served.ends_ps, END | at, at)
        return
    line = queued.endings[kind]
    served.next = -1
    if line.first < 0:
        line.first = at
    else:
        queued.served[line.last].next = at
    line.last = at


@compiled
def _kind(network: Network, queued: Queued, at: int) -> Whole:
    """The list of transmissions that take as long as the one on a link, or -1."""
    rules, served = network.rules[0], queued.served[at]
    if network.links[at].varies or rules.by_link or served.late:
        return np.int64(-1)
    if served.wire == rules.full_wire:
        return np.int64(served.kind)
    return np.int64(served.kind) + 1 if served.wire == rules.answer_wire else np.int64(-1)


@compiled
def depart(state: State, queued: Queued | None, flight: Flight, key: int, what: int, listed: bool, now: int) -> None:
    """A transmission ends, or a pause frame arrives, whose keys are smaller; `listed`: the event is not in the heap."""
    if queued is not None:
        network, link = state.network, what
        if listed:
            line = queued.endings[_kind(network, queued, what)]
            line.first = queued.served[what].next
        else:
            take_first(flight.calendar)
        if key >= END:
            finish(network, state.routing, queued, link)
        else:
            if not stop_or_resume(queued, what, now):
                return
            link = link_of(queued, network.rules[0], what)
        _go_on(state, queued, flight, link, now)
        schedule_departures(flight, network, queued)
        if key < END:
            ring = state.hosts.rings[what]
            if ring.first >= 0 and ring.look_ps < 0:
                ring.look_ps = max(now, network.links[link].free_ps)
                schedule_look(flight, state.hosts, what)


@compiled
def _go_on(state: State, queued: Queued, flight: Flight, at: int, now: int) -> None:
    """Begins the next transmission of a link that is free; packets on a link that is down are lost in turn."""
    network, totals = state.network, state.network.totals[0]
    while not queued.served[at].busy:
        place = next_queue(network.rules[0], queued, at)
        if place < 0:
            return
        index = take_out(queued, place)
        packet = flight.packets[index]
        leaves = serve_next(network, state.routing, queued, packet, index, at, place, now)
        arrives = GONE if leaves < 0 else forward(state, packet, at, leaves)
        if arrives == GONE:
            packet.next = totals.free_packet
            totals.free_packet = index
        else:
            send(flight, index, at, arrives)
