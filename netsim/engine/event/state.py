"""The state of the event engine as arrays of records (`netsim.engine.event.records`).

Times in picoseconds, sizes in bytes, on the wire unless said otherwise. -1 is no index.
"""

from typing import Any, NamedTuple

import numpy as np

Array = Record = Any
"""Structured arrays and their records. Compiled code uses the fields by name, for which NumPy has no static type."""
Whole = int | np.int64 | np.uint64
"""Types of numbers in compiled code."""


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
        alike: Whether all ways of a pair have as many links, and take answers as long without waiting.
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
        reverse: The other direction of a link's cable.
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
    alike: Array
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
    reverse: Array
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
        kinds: Records of `LINK_KIND`.
        change_begin: Rows of the changes of each link's rate; see `netsim.engine.compiled.fabric.FabricArrays`.
        change_ps: When a rate changes.
        change_bps: The rate from then on; 0 is down.
        change_since_ps: When the first service at that rate began, -1 if none has.
        longest: Queues over time; see `netsim.engine.queue_series`.
        carried: Bytes of each link over time, no rows if none are recorded; see `netsim.engine.watch`.
        carried_shape: Its intervals; see `netsim.engine.event.watching`.
        keys: Task whose draws each task has; empty: its own.
    """

    rules: Array
    totals: Array
    links: Array
    kinds: Array
    change_begin: Array
    change_ps: Array
    change_bps: Array
    change_since_ps: Array
    longest: Array
    carried: Array
    carried_shape: Array
    keys: Array


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
        quanta: See `netsim.engine.protocol.Scene.quanta`.
        turns: See `netsim.engine.event.turns`.
        needs: Room for what each class needs to send a packet.
    """

    queues: Array
    waiting: Array
    served: Array
    switches: Array
    notes: Array
    told: Array
    endings: Array
    quanta: Array
    turns: Array
    needs: Array


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
        arrived: Selective repeat: whether each packet has arrived, by row.
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
    arrived: Array
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
