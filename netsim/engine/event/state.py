"""The state of the event engine as arrays: one record for each flow, link, host's ring and packet in flight.

Times in picoseconds, sizes in bytes, on the wire unless said otherwise. -1 is no index.
"""

from typing import Any, NamedTuple

import numpy as np

from netsim.engine.compiled.lines import LINE_BYTES

Array = Record = Any
"""Structured arrays and their records. Compiled code uses the fields by name, for which NumPy has no static type."""
Whole = int | np.int64 | np.uint64
"""Types of numbers in compiled code."""

_INDEX, _WHOLE, _REAL, _YES = np.int32, np.int64, np.float64, np.uint8


def _record(**fields: type) -> np.dtype:
    return np.dtype([*fields.items()], align=True)


def _lines(**fields: type) -> np.dtype:
    """A record that fills whole lines of the cache, for arrays of `netsim.engine.compiled.lines.zeros`."""
    packed = _record(**fields)
    formats, offsets = zip(*(packed.fields[name] for name in packed.names), strict=True)  # type: ignore[index]
    size = -(-packed.itemsize // LINE_BYTES) * LINE_BYTES
    names = list(packed.names or ())
    return np.dtype({"names": names, "formats": list(formats), "offsets": list(offsets), "itemsize": size})


FLOW_STATE = _lines(
    # Three lines of the cache, which are all that most packets need. Where the flow leaves from, and its place in its
    # host's ring; see `netsim.transport.protocol.Flow`.
    id=_WHOLE,
    packets_window=_REAL,
    cut_ps=_WHOLE,
    up=_INDEX,
    next_in_ring=_INDEX,
    path=_INDEX,
    pair=_INDEX,
    first_way=_INDEX,
    oldest=_INDEX,
    newest=_INDEX,
    fruitless=_INDEX,
    seen=_INDEX,
    marked=_INDEX,
    # The sender: how many packets may be under way, row of its first packet in `Hosts.sent`; packets, transmissions,
    # first sequence never sent; packets under way, counted as lost, and one more than the highest ever sent.
    next_ps=_WHOLE,
    deadline_ps=_WHOLE,
    window=_WHOLE,
    first_row=_WHOLE,
    packets=_INDEX,
    serial=_INDEX,
    next=_INDEX,
    in_flight=_INDEX,
    lost=_INDEX,
    sent=_INDEX,
    in_ring=_YES,
    timer_runs=_YES,
    alone=_YES,
    given_up=_YES,
    traffic_class=_YES,
    listens=_YES,
    express=_YES,
    links=_YES,
    # The receiver; answers that went back without stopping at any link, and how long the hosts' links take them.
    left=_INDEX,
    down=_INDEX,
    highest=_INDEX,
    reordered=_INDEX,
    answers=_WHOLE,
    answer_ps=_WHOLE,
    notified_ps=_WHOLE,
    task=_WHOLE,
    start_ps=_WHOLE,
    end_ps=_WHOLE,
    # The rest of the flow: its last packet, source host and destination leaf.
    last_wire=_WHOLE,
    bytes=_WHOLE,
    source=_INDEX,
    leaf=_INDEX,
    wake_ps=_WHOLE,
    # Eight times the smoothed round trip, and four times its mean deviation; see `netsim.congestion.timeout`.
    smoothed_8=_WHOLE,
    deviation_4=_WHOLE,
    # No lost packet is before it; go-back-N: before which all have arrived, at the sender and at the receiver.
    lost_from=_INDEX,
    acked=_INDEX,
    expected=_INDEX,
    complained=_INDEX,
    retransmitted=_WHOLE,
    # Congestion control; see `netsim.congestion`.
    alpha=_REAL,
    latest_ps=_WHOLE,
    target_ps=_WHOLE,
    rate_bps=_REAL,
    target_bps=_REAL,
    line_bps=_REAL,
    estimated_ps=_WHOLE,
    increased_ps=_WHOLE,
    timer_steps=_WHOLE,
    byte_steps=_WHOLE,
    counted_bytes=_WHOLE,
    # Transport: the last flowlet; entries of the flow's ring of paths that are valid, and all; until when it is frozen.
    flowlet_ps=_WHOLE,
    flowlet_path=_INDEX,
    valid=_INDEX,
    valid_begin=_INDEX,
    kept=_INDEX,
    kept_begin=_INDEX,
    chosen=_INDEX,
    frozen_ps=_WHOLE,
    exploring=_WHOLE,
    unmarked=_WHOLE,
)

NSCC_STATE = _record(
    window_bytes=_REAL,
    average_ps=_REAL,
    rise=_REAL,
    most=_REAL,
    achieved=_REAL,
    received=_REAL,
    ignored=_REAL,
    to_ignore=_REAL,
    prompt=_REAL,
    base_ps=_WHOLE,
    network_ps=_WHOLE,
    adapts_ps=_WHOLE,
    adjusted_ps=_WHOLE,
    fast=_YES,
    trimmed=_YES,
)
"""What NSCC keeps of a flow besides `FLOW_STATE`, whose `alpha` is its scale; names as in `netsim.congestion.nscc`."""

ASKED_STATE = _record(
    credit=_WHOLE,
    under_way=_WHOLE,
    known=_WHOLE,
    unasked=_WHOLE,
    ahead=_WHOLE,
    arrived=_WHOLE,
    trims=_WHOLE,
    granted=_WHOLE,
    grants=_WHOLE,
    next_waiting=_INDEX,
    back_way=_INDEX,
    waits=_YES,
)
"""What a sender (the first three) and its receiver keep of a flow under receiver-driven control."""

LINK_STATE = _lines(
    free_ps=_WHOLE,
    # At the nominal rate: service of a full packet, room, and threshold of marking.
    full_ps=_WHOLE,
    room_ps=_WHOLE,
    # From the end of a packet until the link sends it again, less than 0 if it has no errors.
    round_trip_ps=_WHOLE,
    mark_ps=_WHOLE,
    delay_ps=_WHOLE,
    bytes=_WHOLE,
    busy_ps=_WHOLE,
    longest_ps=_WHOLE,
    varies=_YES,
    at_switch=_YES,
    reverse=_INDEX,
    lane_free_ps=_WHOLE,
    rate_bps=_WHOLE,
    # At that rate: service of an answer, and where marking is certain.
    answer_ps=_WHOLE,
    mark_all_ps=_WHOLE,
)
"""A link; `rate_bps` is nominal and holds at all times unless the link `varies`."""

HOST_RING = _lines(
    first=_INDEX,
    last=_INDEX,
    look_ps=_WHOLE,
    scheduled=_YES,
    sent=_WHOLE,
    last_flow=_INDEX,
    last_path=_INDEX,
    last_wire=_WHOLE,
    last_epoch=_INDEX,
)
"""Flows that take turns at a host's link, and the packet that it sent last.

The link looks for a packet at `look_ps`, -1 for never; the event engine's calendar knows if `scheduled`. `last_path` is
-1 if switches choose.
"""

PACER = _record(first=_INDEX, last=_INDEX, next_ps=_WHOLE, runs=_YES)
"""Flows whose receiver behind a link will ask them for packets in turn, and when it next may."""

TRANSMISSION = _record(last_serial=_INDEX, older=_INDEX, newer=_INDEX, bits=_YES)
"""Selective repeat: a packet of a flow, its last transmission, and the packets under way that left before and after it.

Packets are sequences within their flow, `bits` those of `netsim.engine.event.recovery`.
"""

LANE = _record(first=_INDEX, last=_INDEX)
"""Packets on their way from a link, by time of arrival: lane 2 l of link l for data, 2 l + 1 for the control lane."""

PACKET = _record(
    time_ps=_WHOLE,
    key=_WHOLE,
    sent_ps=_WHOLE,
    wire=_WHOLE,
    flow=_INDEX,
    way=_INDEX,
    node=_INDEX,
    sequence=_INDEX,
    expected=_INDEX,
    next=_INDEX,
    previous=_INDEX,
    hop=_YES,
    links=_YES,
    control=_YES,
    passes=_YES,
    trimmed=_YES,
    marked=_YES,
    refusal=_YES,
    notified=_YES,
)
"""A packet, or its acknowledgement, which has passed `hop` of `links` links.

`marked` is 1 by a queue, and otherwise what `trimmed` is: 2 in front of the last link if the transport forgives that.

`way` is a row of `FabricArrays.way_links` that agrees with its path so far.
"""

QUEUE = _record(
    # Packets of a class that wait in front of a link: the first and last, their service time, and bytes with the one
    # that is on the link.
    first=_INDEX,
    last=_INDEX,
    waiting_ps=_WHOLE,
    length=_WHOLE,
    # Whether the switch behind the link has stopped the queue, since when, and for how long in all.
    stopped=_YES,
    stopped_ps=_WHOLE,
    paused_ps=_WHOLE,
    # What that switch holds of its packets, how much it may hold, whether it has told the queue to stop, and how long
    # its word takes.
    told=_YES,
    held=_WHOLE,
    most=_WHOLE,
    news_ps=_WHOLE,
)
"""Queue `link * classes + class` of links with queues; see `netsim.engine.event.queued`."""

WAITING = _record(came_ps=_WHOLE, found_ps=_WHOLE, work_ps=_WHOLE, source=_INDEX, next=_INDEX)
"""A packet in a queue: when it came, what it found there, its service time, the queue it came from, the next packet."""

SERVED = _record(
    ends_ps=_WHOLE, wire=_WHOLE, busy=_YES, late=_YES, queue=_INDEX, source=_INDEX, next=_INDEX, kind=_INDEX
)
"""The packet that is on a link, and the next link whose transmission takes as long and ends later.

`kind` is twice the number of the link's rate: full packets take as long on all links of a kind, and so do answers,
unless they are `late` because the link repeats them.
"""

SWITCH = _record(used=_WHOLE, pool=_WHOLE)
"""Bytes that a switch holds, and its memory without headroom."""

NOTES = _record(packet=_INDEX, begun=_INDEX, told=_INDEX)
"""Between the loop and links with queues: the record of the packet that an event is about, a link whose transmission
begins with it, or -1, and the number of queues that are told to stop or to go on."""

RULES = _record(
    payload=_WHOLE,
    header=_WHOLE,
    full_wire=_WHOLE,
    answer_wire=_WHOLE,
    answers_queue=_YES,
    answers_take_time=_YES,
    trims=_YES,
    trimmed_wire=_WHOLE,
    room_bytes=_WHOLE,
    marks=_YES,
    errors=_INDEX,
    error_rate=_REAL,
    error_draws=np.uint64,
    mark_above=_WHOLE,
    mark_all_above=_WHOLE,
    mark_at_most=_REAL,
    listens=_YES,
    round_robin=_YES,
    order=_INDEX,
    hosts=_WHOLE,
    leaves=_WHOLE,
    epochs=_WHOLE,
    # Whether the run ends although background traffic goes on. Links with queues: number of classes; memory of a
    # switch, -1 without one; alpha in millionths; whether full
    # switches pause links, and by thresholds that follow the memory; when they resume.
    ends_early=_YES,
    classes=_WHOLE,
    memory_bytes=_WHOLE,
    alpha=_WHOLE,
    pauses=_YES,
    dynamic=_YES,
    pause_above=_WHOLE,
    resume_at=_WHOLE,
    resume_below=_WHOLE,
    # Recovery.
    recovery=_INDEX,
    timeout_ps=_WHOLE,
    longest_timeout_ps=_WHOLE,
    estimates=_YES,
    patience=_INDEX,
    reordering=_WHOLE,
    end_ps=_WHOLE,
    # Congestion control.
    congestion=_INDEX,
    fixed_window=_WHOLE,
    gain=_REAL,
    first_alpha=_REAL,
    notify_ps=_WHOLE,
    estimate_ps=_WHOLE,
    increase_ps=_WHOLE,
    increase_bytes=_WHOLE,
    fast_steps=_WHOLE,
    additive_bps=_REAL,
    hyper_bps=_REAL,
    slowest_bps=_REAL,
    queueing_ps=_WHOLE,
    increase=_REAL,
    decrease=_REAL,
    largest_decrease=_REAL,
    smallest_window=_REAL,
    hop_ps=_WHOLE,
    flow_range=_REAL,
    flow_gain=_REAL,
    flow_offset=_REAL,
    keeps=_YES,
    places=_WHOLE,
    trim_share=_REAL,
    network_ps=_WHOLE,
    target_ps=_WHOLE,
    gate=_WHOLE,
    outstanding=_WHOLE,
    grant=_WHOLE,
    pace=_REAL,
    # Transport; whether the nth usable path of a pair is always its nth.
    choice=_INDEX,
    all_usable=_YES,
    switch=_INDEX,
    asks_after_timeout=_YES,
    gap_ps=_WHOLE,
    entries=_WHOLE,
    freeze_ps=_WHOLE,
    explore=_WHOLE,
    every=_WHOLE,
    entropies=_WHOLE,
    forgives_last_link=_YES,
    step_ps=_WHOLE,
    bias_ps=_WHOLE,
    samples=_WHOLE,
    memory=_WHOLE,
    path_draws=np.uint64,
    # Admission: rule of `netsim.engine.event.cutting`, and the options and draws of ethereal.
    admission=_INDEX,
    parts=_WHOLE,
    equal_pieces=_YES,
    shuffled=_YES,
    shuffled_groups=_YES,
    staggered=_YES,
    start_delay_ps=_WHOLE,
    leaf_draws=np.uint64,
    member_draws=np.uint64,
    delay_draws=np.uint64,
    other_draws=np.uint64,
    entropy_draws=np.uint64,
    order_draws=np.uint64,
    mark_draws=np.uint64,
)
"""Constants of the scenario, one record."""

TOTALS = _record(
    now_ps=_WHOLE,
    packets=_WHOLE,
    hops=_WHOLE,
    control_hops=_WHOLE,
    dropped=_WHOLE,
    trimmed=_WHOLE,
    marked=_WHOLE,
    width_bits=_WHOLE,
    used=_WHOLE,
    undone=_WHOLE,
    released=_WHOLE,
    flows=_WHOLE,
    rows=_WHOLE,
    free_packet=_INDEX,
    chosen=_WHOLE,
    asks=_WHOLE,
    moves_up=_INDEX,
)
"""Counts of a run, and what the loop needs when it stops: one record.

`moves_up` is a flow whose timer must move up, but has been taken from the heap for being due soon; -1 for none.
"""


class Program(NamedTuple):
    """Tasks and their successors.

    Args:
        begins: Heap of tasks that begin (2 task), and of those whose messages have arrived (2 task + 1).
        bytes: Of each task.
        delay_ps: Of each task.
        src_host: Of each task.
        dst_host: Of each task.
        traffic_class: Of each task.
        background: Whether the run may end without a task.
        next_begin: Rows of `next` of each task.
        next: Tasks that wait for it.
        waits_for: How many tasks it still waits for; less than 0 once it is done.
        flows_left: How many of its flows are not complete.
        end_ps: When it was done.
        released: Tasks released in this instant; `TOTALS` has their number.
        stack: Scratch space for tasks that begin at once.
        src: Rank that sends, of each task.
        dst: Rank that receives.
        sorter: Scratch heap in which admission sorts.
        groups: Scratch rows of `netsim.engine.event.balance`, of messages and their groups.
        ways: Scratch rows of it, of a group's ways.
        seen: Scratch rows of it, of links.
        avoided: Hash table of ways that have failed flows: first link or -1, leaf, way, until when.
        queue_pair: Row of `latest` of the first flow of each task's messages; empty if no state is kept.
        latest: Latest flow of each queue pair, -1 if there is none.
    """

    begins: Array
    bytes: Array
    delay_ps: Array
    src_host: Array
    dst_host: Array
    traffic_class: Array
    background: Array
    next_begin: Array
    next: Array
    waits_for: Array
    flows_left: Array
    end_ps: Array
    released: Array
    stack: Array
    src: Array
    dst: Array
    sorter: Array
    groups: Array
    ways: Array
    seen: Array
    avoided: Array
    queue_pair: Array
    latest: Array


class Routing(NamedTuple):
    """Ways and the routing's knowledge, from `FabricArrays`, and the state of transports.

    Args:
        up: Link from a host to its leaf.
        down: Link from its leaf to a host.
        inside: Link inside a host.
        leaf: Leaf of a host.
        place: Place of a host among those of its leaf.
        pair: Index of a pair of leaves.
        way_begin: First way of a pair.
        way_links: Links of a way.
        way_length: Links of a way.
        minimal: Minimal ways of a pair, which come first.
        way_answer_ps: How long an answer takes back on a way without waiting.
        way_answers: Answers that went back on a way without stopping.
        calm: Whether nothing ever changes on a pair's ways.
        epoch_ps: When knowledge changes.
        usable_begin: Rows of `usable` of a pair and epoch.
        usable: Usable ways.
        counts: Packets that a host has sent to a leaf, of `DestinationRotation`.
        child_begin: Rows of the next two of each node of `netsim.engine.event.switches.tree`.
        child_link: Links that lead on.
        child_node: Nodes to which they lead.
        node_way: A way that begins with the links to a node.
        source: Number of the node at which a link begins.
        shortest: Of each switch, the last choice, or those remembered.
        candidates: Room for links among which a switch chooses, and their queues.
        chosen: Choices of flows: switch, link, next of the flow.
        paths: Entries of the flows' rings of paths, valid ones and all.
    """

    up: Array
    down: Array
    inside: Array
    leaf: Array
    place: Array
    pair: Array
    way_begin: Array
    way_links: Array
    way_length: Array
    minimal: Array
    way_answer_ps: Array
    way_answers: Array
    calm: Array
    epoch_ps: Array
    usable_begin: Array
    usable: Array
    counts: Array
    child_begin: Array
    child_link: Array
    child_node: Array
    node_way: Array
    source: Array
    shortest: Array
    candidates: Array
    chosen: Array
    paths: Array


class Network(NamedTuple):
    """Links.

    Args:
        rules: One record of `RULES`.
        totals: One record of `TOTALS`.
        links: Records of `LINK_STATE`.
        change_begin: Rows of the changes of each link's rate; see `netsim.engine.compiled.fabric.FabricArrays`.
        change_ps: When a rate changes.
        change_bps: The rate from then on; 0 is down.
        longest: Queues over time; see `netsim.engine.queue_series`.
        carried: Bytes of each link over time, no rows if none are recorded; see `netsim.engine.watch`.
        carried_shape: Its intervals; see `netsim.engine.event.watching`.
    """

    rules: Array
    totals: Array
    links: Array
    change_begin: Array
    change_ps: Array
    change_bps: Array
    longest: Array
    carried: Array
    carried_shape: Array


class Queued(NamedTuple):
    """Links with queues, in which a pause or a packet of a better class may delay a departure.

    Args:
        queues: Records of `QUEUE`.
        waiting: Records of `WAITING`, by packet.
        served: Records of `SERVED`, by link.
        switches: Records of `SWITCH`, by node.
        notes: One record of `NOTES`.
        told: Queues that are told to stop or to go on; `notes` has their number.
        endings: Records of `LANE`: links in the order in which their transmissions end, those that take equally long.
    """

    queues: Array
    waiting: Array
    served: Array
    switches: Array
    notes: Array
    told: Array
    endings: Array


class Hosts(NamedTuple):
    """Senders and receivers of flows.

    Args:
        flows: Records of `FLOW_STATE`, in the order of their admission.
        rings: Records of `HOST_RING`, by link, or by queue of links with queues.
        nscc: Records of `NSCC_STATE`, by flow; none under other kinds of congestion control.
        asked: Records of `ASKED_STATE`, by flow; none unless receivers ask for packets.
        pacers: Records of `PACER`, by link; likewise.
        timers: Heap of flows' timers and late starts, by flow.
        turns: Heap in which flows admitted together are put in order.
        sent: Selective repeat: records of `TRANSMISSION`, by row.
        slots: Row of `samples` of each task, -1 for those that are not recorded; empty if none are.
        samples: Numbers of `netsim.engine.watch.SAMPLE` of each task that is recorded.
        sampled: How many there are; see `netsim.engine.event.watching`.
    """

    flows: Array
    rings: Array
    nscc: Array
    asked: Array
    pacers: Array
    timers: Array
    turns: Array
    sent: Array
    slots: Array
    samples: Array
    sampled: Array


class State(NamedTuple):
    """The state of a run, except the calendar and the packets in flight.

    `queued` is None where links need no queues, and the loop has no code for them then.
    """

    network: Network
    hosts: Hosts
    program: Program
    routing: Routing
    queued: Queued | None


class Flight(NamedTuple):
    """Calendar of the event engine, and the packets in flight.

    Args:
        calendar: Heap of arrivals, by lane, and of hosts' links that look for a packet, by link.
        lanes: Records of `LANE`.
        packets: Records of `PACKET`; those not in use are chained by `next`.
    """

    calendar: Array
    lanes: Array
    packets: Array
