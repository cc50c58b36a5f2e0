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
    """Tasks and their successors."""

    begins: Array  # heap of tasks that begin (2 task), and of those whose messages have arrived (2 task + 1)
    bytes: Array  # of each task
    delay_ps: Array  # of each task
    src_host: Array  # of each task
    dst_host: Array  # of each task
    traffic_class: Array  # of each task
    background: Array  # whether the run may end without a task
    next_begin: Array  # rows of `next` of each task
    next: Array  # tasks that wait for it
    waits_for: Array  # how many tasks it still waits for; less than 0 once it is done
    flows_left: Array  # how many of its flows are not complete
    end_ps: Array  # when it was done
    released: Array  # tasks released in this instant; `TOTALS` has their number
    stack: Array  # scratch space for tasks that begin at once
    src: Array  # rank that sends, of each task
    dst: Array  # rank that receives
    sorter: Array  # scratch heap in which admission sorts
    groups: Array  # scratch rows of `netsim.engine.event.balance`, of messages and their groups
    ways: Array  # scratch rows of it, of a group's ways
    seen: Array  # scratch rows of it, of links
    avoided: Array  # hash table of ways that have failed flows: first link or -1, leaf, way, until when
    queue_pair: Array  # row of `latest` of the first flow of each task's messages; empty if no state is kept
    latest: Array  # latest flow of each queue pair, -1 if there is none


class Routing(NamedTuple):
    """Ways and the routing's knowledge, from `FabricArrays`, and the state of transports."""

    up: Array  # link from a host to its leaf
    down: Array  # link from its leaf to a host
    inside: Array  # link inside a host
    leaf: Array  # leaf of a host
    place: Array  # place of a host among those of its leaf
    pair: Array  # index of a pair of leaves
    way_begin: Array  # first way of a pair
    way_links: Array  # links of a way
    way_length: Array  # links of a way
    minimal: Array  # minimal ways of a pair, which come first
    way_answer_ps: Array  # how long an answer takes back on a way without waiting
    way_answers: Array  # answers that went back on a way without stopping
    alike: Array  # whether all ways of a pair have as many links, and take answers as long without waiting
    calm: Array  # whether nothing ever changes on a pair's ways
    epoch_ps: Array  # when knowledge changes
    usable_begin: Array  # rows of `usable` of a pair and epoch
    usable: Array  # usable ways
    counts: Array  # packets that a host has sent to a leaf, of `DestinationRotation`
    child_begin: Array  # rows of the next two of each node of `netsim.engine.event.switches.tree`
    child_link: Array  # links that lead on
    child_node: Array  # nodes to which they lead
    node_way: Array  # a way that begins with the links to a node
    source: Array  # number of the node at which a link begins
    reverse: Array  # the other direction of a link's cable
    shortest: Array  # of each switch, the last choice, or those remembered
    candidates: Array  # room for links among which a switch chooses, and their queues
    chosen: Array  # choices of flows: switch, link, next of the flow
    paths: Array  # entries of the flows' rings of paths, valid ones and all


class Network(NamedTuple):
    """Links."""

    rules: Array  # one record of `RULES`
    totals: Array  # one record of `TOTALS`
    links: Array  # records of `LINK_STATE`
    kinds: Array  # records of `LINK_KIND`
    change_begin: Array  # rows of the changes of each link's rate; see `netsim.engine.compiled.fabric.FabricArrays`
    change_ps: Array  # when a rate changes
    change_bps: Array  # the rate from then on; 0 is down
    change_since_ps: Array  # when the first service at that rate began, -1 if none has
    longest: Array  # queues over time; see `netsim.engine.queue_series`
    carried: Array  # bytes of each link over time, no rows if none are recorded; see `netsim.engine.watch`
    carried_shape: Array  # its intervals; see `netsim.engine.event.watching`
    keys: Array  # task whose draws each task has; empty: its own


class Queued(NamedTuple):
    """Links with queues, in which a pause or a packet of a better class may delay a departure."""

    queues: Array  # records of `QUEUE`
    waiting: Array  # records of `WAITING`, by packet
    served: Array  # records of `SERVED`, by link
    switches: Array  # records of `SWITCH`, by node
    notes: Array  # one record of `NOTES`
    told: Array  # queues that are told to stop or to go on; `notes` has their number
    # Records of `LANE`: links in the order in which their transmissions end, those that take equally long
    endings: Array
    quanta: Array  # see `netsim.engine.protocol.Scene.quanta`
    turns: Array  # see `netsim.engine.event.turns`
    needs: Array  # room for what each class needs to send a packet


class Hosts(NamedTuple):
    """Senders and receivers of flows."""

    flows: Array  # records of `FLOW_STATE`, in the order of their admission
    rings: Array  # records of `HOST_RING`, by link, or by queue of links with queues
    nscc: Array  # records of `NSCC_STATE`, by flow; none under other kinds of congestion control
    asked: Array  # records of `ASKED_STATE`, by flow; none unless receivers ask for packets
    pacers: Array  # records of `PACER`, by link; likewise
    timers: Array  # heap of flows' timers and late starts, by flow
    turns: Array  # heap in which flows admitted together are put in order
    sent: Array  # selective repeat: records of `TRANSMISSION`, by row
    arrived: Array  # selective repeat: whether each packet has arrived, by row
    slots: Array  # row of `samples` of each task, -1 for those that are not recorded; empty if none are
    samples: Array  # numbers of `netsim.engine.watch.SAMPLE` of each task that is recorded
    sampled: Array  # how many there are; see `netsim.engine.event.watching`


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
    """Calendar of the event engine, and the packets in flight."""

    calendar: Array  # heap of arrivals, by lane, and of hosts' links that look for a packet, by link
    lanes: Array  # records of `LANE`
    packets: Array  # records of `PACKET`; those not in use are chained by `next`
