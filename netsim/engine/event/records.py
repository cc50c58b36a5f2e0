"""Records of the event engine: flows, links, hosts' rings, packets in flight and queues.

Times in picoseconds, sizes in bytes, on the wire unless said otherwise. -1 is no index.
"""

from netsim.engine.event.fields import INDEX, REAL, WHOLE, YES, lines, record

FLOW_STATE = lines(
    # Four lines of the cache, which are all that most packets need; see `netsim.transport.protocol.Flow`. Two are the
    # sender's: its control, its timer, how many packets may be under way; packets, transmissions, first sequence never
    # sent; packets under way, counted as lost, and one more than the highest ever sent; its place in its host's ring.
    id=WHOLE,
    packets_window=REAL,
    cut_ps=WHOLE,
    alpha=REAL,
    next_ps=WHOLE,
    deadline_ps=WHOLE,
    window=WHOLE,
    # Eight times the smoothed round trip, and four times its mean deviation; see `netsim.congestion.timeout`.
    smoothed_8=WHOLE,
    deviation_4=WHOLE,
    packets=INDEX,
    serial=INDEX,
    next=INDEX,
    in_flight=INDEX,
    lost=INDEX,
    sent=INDEX,
    oldest=INDEX,
    newest=INDEX,
    pair=INDEX,
    first_way=INDEX,
    seen=INDEX,
    marked=INDEX,
    next_in_ring=INDEX,
    fruitless=INDEX,
    # One is the sender's too, seldom written: row of the first packet in `Hosts.sent`, what draws take for the flow,
    # its last packet, its source host, its class, how many links its path has, and whether all its ways have as many.
    first_row=WHOLE,
    key=WHOLE,
    task=WHOLE,
    last_wire=WHOLE,
    wake_ps=WHOLE,
    up=INDEX,
    path=INDEX,
    source=INDEX,
    in_ring=YES,
    timer_runs=YES,
    alone=YES,
    given_up=YES,
    listens=YES,
    links=YES,
    even=YES,
    traffic_class=YES,
    # One is the receiver's: whether answers are `express`, that is, go back without stopping at any link, and how long
    # they take, without the links between leaves unless all ways are `alike`; row of the first packet in
    # `Hosts.arrived`; the host's link to which answers go back; how many have; packets that have not arrived;
    # go-back-N: before which all have.
    end_ps=WHOLE,
    notified_ps=WHOLE,
    answer_ps=WHOLE,
    arrival_row=WHOLE,
    down=INDEX,
    back=INDEX,
    answers=INDEX,
    left=INDEX,
    highest=INDEX,
    reordered=INDEX,
    expected=INDEX,
    express=YES,
    alike=YES,
    # The rest of the flow: its destination leaf; no lost packet is before it; go-back-N: before which all have arrived,
    # as the sender knows.
    leaf=INDEX,
    lost_from=INDEX,
    acked=INDEX,
    complained=INDEX,
    start_ps=WHOLE,
    bytes=WHOLE,
    retransmitted=WHOLE,
    # Congestion control; see `netsim.congestion`.
    latest_ps=WHOLE,
    target_ps=WHOLE,
    rate_bps=REAL,
    target_bps=REAL,
    line_bps=REAL,
    estimated_ps=WHOLE,
    increased_ps=WHOLE,
    timer_steps=WHOLE,
    byte_steps=WHOLE,
    counted_bytes=WHOLE,
    # Transport: the last flowlet; entries of the flow's ring of paths that are valid, and all; until when it is frozen.
    flowlet_ps=WHOLE,
    flowlet_path=INDEX,
    valid=INDEX,
    valid_begin=INDEX,
    kept=INDEX,
    kept_begin=INDEX,
    chosen=INDEX,
    frozen_ps=WHOLE,
    exploring=WHOLE,
    unmarked=WHOLE,
)

NSCC_STATE = record(
    window_bytes=REAL,
    average_ps=REAL,
    rise=REAL,
    most=REAL,
    achieved=REAL,
    received=REAL,
    ignored=REAL,
    to_ignore=REAL,
    prompt=REAL,
    base_ps=WHOLE,
    network_ps=WHOLE,
    adapts_ps=WHOLE,
    adjusted_ps=WHOLE,
    fast=YES,
    trimmed=YES,
)
"""What NSCC keeps of a flow besides `FLOW_STATE`, whose `alpha` is its scale; names as in `netsim.congestion.nscc`."""

ASKED_STATE = record(
    credit=WHOLE,
    under_way=WHOLE,
    known=WHOLE,
    unasked=WHOLE,
    ahead=WHOLE,
    arrived=WHOLE,
    trims=WHOLE,
    granted=WHOLE,
    grants=WHOLE,
    left=INDEX,
    next_waiting=INDEX,
    back_way=INDEX,
    waits=YES,
)
"""What a sender (the first three) and its receiver keep of a flow under receiver-driven control."""

LINK_STATE = lines(
    free_ps=WHOLE,
    bytes=WHOLE,
    busy_ps=WHOLE,
    longest_ps=WHOLE,
    lane_free_ps=WHOLE,
    reverse=INDEX,
    kind=INDEX,
    unmarked=INDEX,
    varies=YES,
    at_switch=YES,
)
"""A link: when it and its control lane are free, what it has carried, the other direction, its `LINK_KIND`, and the
first packet on its way from it of which `netsim.engine.event.leaving` has not decided whether it is marked."""

LINK_KIND = lines(
    delay_ps=WHOLE,
    rate_bps=WHOLE,
    # At that rate: service of a full packet and of an answer, room, and thresholds of marking.
    full_ps=WHOLE,
    answer_ps=WHOLE,
    room_ps=WHOLE,
    mark_ps=WHOLE,
    mark_all_ps=WHOLE,
    # From the end of a packet until the link sends it again, less than 0 if it has no errors.
    round_trip_ps=WHOLE,
)
"""What many links have in common; `rate_bps` is nominal and holds at all times unless a link `varies`."""

HOST_RING = lines(
    first=INDEX,
    last=INDEX,
    look_ps=WHOLE,
    scheduled=YES,
    sent=WHOLE,
    last_flow=INDEX,
    last_path=INDEX,
    last_wire=WHOLE,
    last_epoch=INDEX,
)
"""Flows that take turns at a host's link, and the packet that it sent last.

The link looks for a packet at `look_ps`, -1 for never; the event engine's calendar knows if `scheduled`. `last_path` is
-1 if switches choose.
"""

PACER = record(first=INDEX, last=INDEX, next_ps=WHOLE, runs=YES)
"""Flows whose receiver behind a link will ask them for packets in turn, and when it next may."""

TRANSMISSION = record(last_serial=INDEX, older=INDEX, newer=INDEX, bits=YES)
"""Selective repeat: a packet of a flow, its last transmission, and the packets under way that left before and after it.

Packets are sequences within their flow, `bits` those of `netsim.engine.event.recovery`.
"""

LANE = record(first=INDEX, last=INDEX)
"""Packets on their way from a link, by time of arrival: lane 2 l of link l for data, 2 l + 1 for the control lane."""

PACKET = record(
    time_ps=WHOLE,
    key=WHOLE,
    sent_ps=WHOLE,
    wire=WHOLE,
    flow=INDEX,
    way=INDEX,
    node=INDEX,
    sequence=INDEX,
    expected=INDEX,
    next=INDEX,
    previous=INDEX,
    hop=YES,
    links=YES,
    control=YES,
    passes=YES,
    trimmed=YES,
    marked=YES,
    refusal=YES,
    notified=YES,
)
"""A packet, or its acknowledgement, which has passed `hop` of `links` links.

`marked` is 1 by a queue, and otherwise what `trimmed` is: 2 in front of the last link if the transport forgives that.

`way` is a row of `FabricArrays.way_links` that agrees with its path so far. `node` is where switches choose; of the
answer of a receiver that asks for packets, how many its flow still lacks.
"""

QUEUE = lines(
    # Packets of a class that wait in front of a link: the first and last, their service time, their bytes, and those
    # with the one that is on the link, if memory is shared.
    first=INDEX,
    last=INDEX,
    waiting_ps=WHOLE,
    waiting_bytes=WHOLE,
    length=WHOLE,
    # Since when the switch behind the link has stopped the queue, for how long in all, and whether it has.
    stopped_ps=WHOLE,
    paused_ps=WHOLE,
    # What that switch holds of its packets, how much it may hold, and whether it has told the queue to stop.
    held=WHOLE,
    most=WHOLE,
    stopped=YES,
    told=YES,
)
"""Queue `link * classes + class` of links with queues; see `netsim.engine.event.queued`."""

WAITING = record(came_ps=WHOLE, found_ps=WHOLE, work_ps=WHOLE, nominal_ps=WHOLE, wire=WHOLE, source=INDEX, next=INDEX)
"""A packet in a queue: when it came, what it found there, its service time, what it joined at the nominal rate if that
of the link varies, its size, the queue it came from, the next."""

SERVED = lines(
    ends_ps=WHOLE,
    wire=WHOLE,
    carried=WHOLE,
    busy=YES,
    late=YES,
    listed=YES,
    queue=INDEX,
    source=INDEX,
    next=INDEX,
    kind=INDEX,
    news_ps=WHOLE,
)
"""The packet that is on a link, and the next link whose transmission takes as long and ends later, or the next of those
that are `listed` because their switch sends on them (`netsim.engine.windowed.endings`).

`carried` are the bytes of data that count as carried once the transmission has ended, 0 if the packet is corrupted.
`kind` is twice the number of the link's rate: full packets take as long on all links of a kind, and so do answers,
unless they are `late` because the link repeats them. `news_ps` is how long a word about its queues takes to come back.
"""

SWITCH = record(used=WHOLE, pool=WHOLE, told=WHOLE)
"""Bytes that a switch holds, its memory without headroom, and how many queues it has told to stop."""

NOTES = record(packet=INDEX, begun=INDEX, told=INDEX)
"""Between the loop and links with queues: the record of the packet that an event is about, a link whose transmission
begins with it, or -1, and the number of queues that are told to stop or to go on."""
