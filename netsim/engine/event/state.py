"""The state of the event engine as arrays, in the order of the fields in `core/state.hpp`, which describes them."""

from typing import Any, NamedTuple

Array = Any
"""A structured array; NumPy has no static type for its fields."""


class Program(NamedTuple):
    """Tasks and their successors."""

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
    routes: Array
    seen: Array
    avoided: Array
    queue_pair: Array
    latest: Array


class Routing(NamedTuple):
    """Routes and the routing's knowledge, from `FabricArrays`, and the state of transports."""

    up: Array
    down: Array
    inside: Array
    leaf: Array
    place: Array
    pair: Array
    route_begin: Array
    route_links: Array
    route_length: Array
    minimal: Array
    route_ack_ps: Array
    route_acks: Array
    alike: Array
    calm: Array
    epoch_ps: Array
    usable_begin: Array
    usable: Array
    counts: Array
    child_begin: Array
    child_link: Array
    child_node: Array
    node_route: Array
    source: Array
    reverse: Array
    shortest: Array
    candidates: Array
    chosen: Array
    paths: Array


class Network(NamedTuple):
    """Links."""

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
    """Links with queues, in which a pause or a packet of a better class may delay a departure."""

    queues: Array
    waiting: Array
    served: Array
    switches: Array
    notes: Array
    frames: Array
    endings: Array
    quanta: Array
    turns: Array
    needs: Array


class Hosts(NamedTuple):
    """Senders and receivers of flows."""

    flows: Array
    rings: Array
    settings: Array
    own: Array
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
    """Calendar of the event engine, and the packets in flight."""

    calendar: Array
    slots: Array
    first: Array
    filled: Array
    later: Array
    run: Array
    lanes: Array
    packets: Array
