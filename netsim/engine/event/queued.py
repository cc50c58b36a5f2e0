"""Links whose packets wait in queues, in compiled code: see `netsim.engine.reference.queued`.

A transmission has one of few durations. Those with the same one end in the order in which they began, so that a list is
their calendar; others are in the heap.
"""

import numpy as np

from netsim.engine.event.buffers import REFUSED, TELLS, gives_back, takes
from netsim.engine.event.calendar import END, END_PS, push
from netsim.engine.event.compiled import compiled
from netsim.engine.event.queues import GOES, LOST, TRIMMED, WAITS, count, marks, serial_of, service_of
from netsim.engine.event.rates import next_down, rate_at
from netsim.engine.event.state import Network, Queued, Record, Routing, Whole

SPARE = 16
"""Entries of the calendar that one event may need besides a word for each queue."""


@compiled
def stand(
    network: Network, routing: Routing, queued: Queued, index: int, flow: Record, at: int, came: int, now: int
) -> tuple[Whole, Whole]:
    """Adds a packet to the queue of its class in front of a link. Returns its fate, and when its last bit leaves.

    Args:
        network: Links and packets.
        routing: Says which switch a link belongs to.
        queued: Queues.
        index: The packet.
        flow: Its flow.
        at: The link.
        came: The link that it came from; any if it is at its host.
        now: Current time.
    """
    rules, totals, link, packet = network.rules[0], network.totals[0], network.links[at], network.packets[index]
    rate = rate_at(network, at, now) if link.varies else link.rate_bps
    if not rate:
        return LOST, lose(network, packet, at, now)
    service = service_of(rules, link, packet.wire, rate)
    place = at * rules.classes + flow.traffic_class
    queue, served = queued.queues[place], queued.served[at]
    found = queue.waiting_ps
    if served.busy and served.queue == place:
        found += served.ends_ps - now
    source = np.int64(-1)
    if link.at_switch:
        source = came * rules.classes + flow.traffic_class
        taken = np.int64(REFUSED)
        if found + service <= room_ps(rules, link, rate):
            taken = takes(rules, queued, packet.wire, source, place, routing.source[at])
        if taken == REFUSED:
            if rules.trims and not packet.control:
                totals.trimmed += 1
                return TRIMMED, now
            totals.dropped += 1
            return LOST, now
        if taken == TELLS:
            tell(network, queued, source, now)
        may_mark = rules.marks and not packet.control and not packet.marked
        if may_mark and marks(rules, link, at, flow.id, serial_of(packet), found, rate):
            packet.marked = 1
            totals.marked += 1
    if not served.busy and not queue.stopped:
        if link.varies and next_down(network, at, now) < now + service:
            release(network, routing, queued, at, packet.wire, source, place, now)
            return LOST, lose(network, packet, at, now)
        begin(network, queued, packet, at, place, source, service, found, now, now)
        return GOES, now + service
    waiting = queued.waiting[index]
    waiting.came_ps, waiting.found_ps, waiting.work_ps, waiting.source = now, found, service, source
    queue.waiting_ps += service
    packet.next = -1
    if queue.first < 0:
        queue.first = index
    else:
        network.packets[queue.last].next = index
    queue.last = index
    return WAITS, now


@compiled
def room_ps(rules: Record, link: Record, rate: int) -> Whole:
    """How long a queue may be, as service time."""
    if link.varies and rules.room_bytes >= 0:
        return service_of(rules, link, rules.room_bytes, rate)
    return link.room_ps


@compiled
def begin(
    network: Network,
    queued: Queued,
    packet: Record,
    at: int,
    place: int,
    source: int,
    service: int,
    found: int,
    came: int,
    now: int,
) -> None:
    """Begins the transmission of a packet that came at `came` and found so much work of its class before it."""
    rules, link, served = network.rules[0], network.links[at], queued.served[at]
    ends = now + service
    link.free_ps = ends
    count(network, link, packet, service, found + service, came)
    served.ends_ps, served.wire, served.busy = ends, packet.wire, 1
    served.queue, served.source, served.next = place, source, -1
    kind = np.int64(served.kind)
    if packet.wire != rules.full_wire:
        kind += 1
    if link.varies or (packet.wire != rules.full_wire and packet.wire != rules.answer_wire):
        push(network.calendar, ends, END | at, np.int64(at))
        return
    line = queued.endings[kind]
    if line.first < 0:
        line.first = at
    else:
        queued.served[line.last].next = at
    line.last = at


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
def take_end(network: Network, queued: Queued, at: int) -> None:
    """Takes a link out of its list."""
    served = queued.served[at]
    kind = np.int64(served.kind)
    if served.wire != network.rules[0].full_wire:
        kind += 1
    line = queued.endings[kind]
    line.first = served.next
    if line.first < 0:
        line.last = -1


@compiled
def finish(network: Network, routing: Routing, queued: Queued, at: int, now: int) -> None:
    """The last bit of a packet has left a link."""
    served = queued.served[at]
    served.busy = 0
    release(network, routing, queued, at, served.wire, served.source, served.queue, now)


@compiled
def release(
    network: Network, routing: Routing, queued: Queued, at: int, wire: int, source: int, place: int, now: int
) -> None:
    """Removes a packet from the memory of its switch; `source` is less than 0 at a host."""
    if source >= 0 and gives_back(network.rules[0], queued, wire, source, place, routing.source[at]):
        tell(network, queued, source, now)


@compiled
def tell(network: Network, queued: Queued, place: int, now: int) -> None:
    """Sends the word to stop a queue, or to go on."""
    push(network.calendar, now + queued.queues[place].news_ps, place, place)


@compiled
def stop_or_resume(queued: Queued, place: int, now: int) -> bool:
    """A word arrives: the first one stops a queue, the second one resumes it; returns whether it goes on."""
    queue = queued.queues[place]
    if queue.stopped:
        queue.paused_ps += now - queue.stopped_ps
        queue.stopped = 0
        return True
    queue.stopped, queue.stopped_ps = 1, now
    return False


@compiled
def lose(network: Network, packet: Record, at: int, now: int) -> Whole:
    """Counts a packet lost on a link that is down; a host's link is busy for its service time all the same."""
    rules, link = network.rules[0], network.links[at]
    if not link.at_switch:
        link.free_ps = now + service_of(rules, link, packet.wire, link.rate_bps)
    network.totals[0].dropped += 1
    return now


@compiled
def next_queue(rules: Record, queued: Queued, at: int) -> Whole:
    """The queue of the first class that has a packet and is not stopped, or -1."""
    for place in range(at * rules.classes, (at + 1) * rules.classes):
        if queued.queues[place].first >= 0 and not queued.queues[place].stopped:
            return np.int64(place)
    return np.int64(-1)


@compiled
def take_out(network: Network, queued: Queued, place: int) -> Whole:
    """Takes the first packet out of a queue."""
    queue = queued.queues[place]
    index = np.int64(queue.first)
    queue.first = network.packets[index].next
    if queue.first < 0:
        queue.last = -1
    queue.waiting_ps -= queued.waiting[index].work_ps
    return index


@compiled
def work_before(queued: Queued, rules: Record, traffic_class: int, at: int, now: int) -> Whole:
    """Unfinished work in front of a link that goes before a new packet of a class."""
    served = queued.served[at]
    work = served.ends_ps - now if served.busy else np.int64(0)
    for place in range(at * rules.classes, at * rules.classes + traffic_class + 1):
        work += queued.queues[place].waiting_ps
    return work


@compiled
def is_stopped(queued: Queued | None, place: int) -> bool:
    """Whether a queue is paused."""
    if queued is None:
        return False
    return queued.queues[place].stopped > 0


@compiled
def ring_of(queued: Queued | None, rules: Record, flow: Record) -> Whole:
    """The ring of a flow, and the queue of its packets, at its host's link."""
    if queued is None:
        return np.int64(flow.up)
    return flow.up * rules.classes + flow.traffic_class


@compiled
def link_of(queued: Queued | None, rules: Record, place: int) -> Whole:
    """The link of a ring or queue."""
    if queued is None:
        return np.int64(place)
    return place // rules.classes


@compiled
def first_ring(queued: Queued | None, rules: Record, link: int) -> Whole:
    """The ring of the first class of a link, which keeps what concerns the whole link."""
    if queued is None:
        return np.int64(link)
    return link * rules.classes


@compiled
def lacks_room(network: Network, queued: Queued | None) -> bool:
    """Whether the words of one event might not fit into the calendar."""
    if queued is None:
        return False
    calendar = network.calendar
    return calendar[0].time_ps + len(queued.queues) + SPARE > len(calendar)
