"""Links whose packets wait in queues, in compiled code: see `netsim.engine.reference.queued`.

Nothing here knows the calendar: what begins and who is told to stop or to go on is in `Queued.notes`.
"""

import numpy as np

from netsim.engine.compiled.service import service_ps
from netsim.engine.event.buffers import REFUSED, TELLS, gives_back, takes
from netsim.engine.event.compiled import compiled
from netsim.engine.event.errors import repeats
from netsim.engine.event.keys import flow_key
from netsim.engine.event.queues import GOES, LOST, TRIMMED, WAITS, count, flow_id_of, marks, serial_of, service_of
from netsim.engine.event.rates import begin_service, next_down, rate_at, work_ps
from netsim.engine.event.state import Network, Queued, Record, Routing, Whole
from netsim.engine.event.turns import next_class, note_sent, note_sent_alone, takes_turns
from netsim.engine.event.watching import note_carried


@compiled
def stand(
    network: Network, routing: Routing, queued: Queued, packet: Record, traffic_class: int, at: int, came: int, now: int
) -> tuple[Whole, Whole]:
    """Adds a packet to the queue of its class in front of a link. Returns its fate, and when its last bit leaves."""
    rules, totals, link = network.rules[0], network.totals[0], network.links[at]
    kind = network.kinds[link.kind]
    rate = rate_at(network, at, now) if link.varies else kind.rate_bps
    if not rate:
        return LOST, lose(network, packet, at, now)
    service = service_of(rules, link, kind, packet.wire, rate)
    place = at * rules.classes + traffic_class
    queue, served = queued.queues[place], queued.served[at]
    found = queue.waiting_ps
    if served.busy and served.queue == place:
        found += served.ends_ps - now
    source = np.int64(-1)
    if link.at_switch:
        source = came * rules.classes + traffic_class
        taken = np.int64(REFUSED)
        if found + service <= room_ps(rules, link, kind, rate):
            taken = takes(rules, queued, packet.wire, source, place, routing.source[at])
        if taken == REFUSED:
            if rules.trims and not packet.control:
                totals.trimmed += 1
                return TRIMMED, now
            totals.dropped += 1
            return LOST, now
        if taken == TELLS:
            tell(queued, source)
        may_mark = rules.marks and not packet.control and not packet.marked
        if may_mark and marks(network, link, kind, at, packet, found, rate):
            packet.marked = 1
            totals.marked += 1
    work = np.int64(0)
    if link.varies:
        work = service_ps(queue.waiting_bytes + packet.wire, kind.rate_bps)
        if served.busy and served.queue == place:
            work += work_ps(network, at, now, np.int64(served.ends_ps))
    if not served.busy and not queue.stopped:
        if len(queued.quanta):
            note_sent_alone(queued, at, traffic_class)
        if link.varies and next_down(network, at, now) < now + service:
            release(network, routing, queued, at, packet.wire, source, place)
            return LOST, lose(network, packet, at, now)
        ends = begin(network, queued, packet, at, place, source, service, found, work, now, now)
        return (GOES, ends) if ends >= 0 else (LOST, now)
    index = queued.notes[0].packet
    waiting = queued.waiting[index]
    waiting.came_ps, waiting.found_ps, waiting.work_ps, waiting.nominal_ps = now, found, service, work
    waiting.wire, waiting.source, waiting.next = packet.wire, source, -1
    queue.waiting_ps += service
    queue.waiting_bytes += packet.wire
    if queue.first < 0:
        queue.first = index
    else:
        queued.waiting[queue.last].next = index
    queue.last = index
    return WAITS, now


@compiled
def room_ps(rules: Record, link: Record, kind: Record, rate: int) -> Whole:
    """How long a queue may be, as service time."""
    if link.varies and rules.room_bytes >= 0:
        return service_of(rules, link, kind, rules.room_bytes, rate)
    return kind.room_ps


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
    work: int,
    came: int,
    now: int,
) -> Whole:
    """Begins the transmission of a packet that came at `came` and found so much work of its class before it.

    If the rate of the link varies, `work` is what it joined at the nominal rate. Returns the end, -1 if the packet is
    corrupted.
    """
    link, served = network.links[at], queued.served[at]
    kind = network.kinds[link.kind]
    key = flow_key(network, flow_id_of(packet))
    again = repeats(network.rules[0], kind, at, key, serial_of(packet), np.int64(packet.control))
    served.late = again > 0
    if again > 0:
        service += again * (service + kind.round_trip_ps)
    ends = now + service
    link.free_ps = ends
    if link.varies:
        begin_service(network, at, now)
    else:
        work = found + service
    count(network, link, packet, service, found + service, work, came)
    served.ends_ps, served.wire, served.busy = ends, packet.wire, 1
    served.queue, served.source = place, source
    served.carried = 0 if packet.control or again < 0 else packet.wire
    queued.notes[0].begun = at
    if again < 0:
        network.totals[0].dropped += 1
        return np.int64(-1)
    return ends


@compiled
def finish(network: Network, routing: Routing, queued: Queued, at: int) -> None:
    """The last bit of a packet has left a link."""
    served = queued.served[at]
    served.busy = 0
    if served.carried:
        note_carried(network, at, served.ends_ps, served.carried)
    release(network, routing, queued, at, served.wire, served.source, served.queue)


@compiled
def release(network: Network, routing: Routing, queued: Queued, at: int, wire: int, source: int, place: int) -> None:
    """Removes a packet from the memory of its switch; `source` is less than 0 at a host."""
    if source >= 0 and gives_back(network.rules[0], queued, wire, source, place, routing.source[at]):
        tell(queued, source)


@compiled
def tell(queued: Queued, place: int) -> None:
    """Notes that a queue is told to stop, or to go on."""
    notes = queued.notes[0]
    queued.told[notes.told] = place
    notes.told += 1


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
        kind = network.kinds[link.kind]
        link.free_ps = now + service_of(rules, link, kind, packet.wire, kind.rate_bps)
    network.totals[0].dropped += 1
    return now


@compiled
def next_queue(rules: Record, queued: Queued, at: int) -> Whole:
    """The queue whose packet goes next: of those that have one and are not stopped, the first, or by turns; or -1."""
    if len(queued.quanta):
        for number in range(rules.classes):
            queue = queued.queues[at * rules.classes + number]
            has_one = queue.first >= 0 and not queue.stopped
            queued.needs[number] = queued.waiting[queue.first].wire if has_one else -1
        chosen = next_class(queued, at)
        return at * rules.classes + chosen if chosen >= 0 else chosen
    for place in range(at * rules.classes, (at + 1) * rules.classes):
        if queued.queues[place].first >= 0 and not queued.queues[place].stopped:
            return np.int64(place)
    return np.int64(-1)


@compiled
def take_out(queued: Queued, place: int) -> Whole:
    """Takes the first packet out of a queue."""
    queue = queued.queues[place]
    index = np.int64(queue.first)
    queue.first = queued.waiting[index].next
    if queue.first < 0:
        queue.last = -1
    queue.waiting_ps -= queued.waiting[index].work_ps
    queue.waiting_bytes -= queued.waiting[index].wire
    classes = len(queued.quanta)
    if classes:
        note_sent(queued, place // classes, place % classes, queued.waiting[index].wire, queue.first >= 0)
    return index


@compiled
def work_before(queued: Queued, rules: Record, traffic_class: int, at: int, now: int) -> Whole:
    """Unfinished work in front of a link that goes before a new packet of a class."""
    served = queued.served[at]
    work = served.ends_ps - now if served.busy else np.int64(0)
    classes = rules.classes if takes_turns(queued, traffic_class) else traffic_class + 1
    for place in range(at * rules.classes, at * rules.classes + classes):
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
def serve_next(
    network: Network, routing: Routing, queued: Queued, packet: Record, index: int, at: int, place: int, now: int
) -> Whole:
    """Begins the transmission of a packet that was taken out of a queue; returns its end, or -1 if it is lost."""
    rules, link, waiting = network.rules[0], network.links[at], queued.waiting[index]
    service, source = np.int64(waiting.work_ps), np.int64(waiting.source)
    if link.varies:
        rate = rate_at(network, at, now)
        service = service_of(rules, link, network.kinds[link.kind], packet.wire, rate) if rate else np.int64(0)
        if not rate or next_down(network, at, waiting.came_ps) < now + service:
            release(network, routing, queued, at, packet.wire, source, place)
            lose(network, packet, at, now)
            return np.int64(-1)
    found, work, came = np.int64(waiting.found_ps), np.int64(waiting.nominal_ps), np.int64(waiting.came_ps)
    return begin(network, queued, packet, at, place, source, service, found, work, came, now)
