"""Several rings or trees beside each other, one for each adapter of a host, as NCCL has channels.

In one ring in the order of the ranks all traffic between two hosts takes one adapter of each. With a channel for each
adapter, every one of which carries a part of the data, the ranks of a host are turned by one adapter from channel to
channel. Where hosts follow each other in a ring, every second one is passed through in the opposite direction, so that
a channel leaves a host by the adapter of the number by which it enters the next one: it stays on its rail.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from netsim.collective.algorithms import LEAST_PIECE_BYTES
from netsim.collective.columns import MessageColumns, Shape, joined
from netsim.collective.protocol import Operation
from netsim.seats import Seats
from netsim.units import split_bytes

Orders = tuple[tuple[int, ...], ...]
"""For each channel the participants in their order."""

CHANNELLED = {
    ("all_reduce", "ring"),
    ("all_reduce", "tree"),
    ("all_reduce", "double_tree"),
    ("all_gather", "ring"),
    ("reduce_scatter", "ring"),
    ("broadcast", "ring"),
}
"""Collectives and algorithms whose traffic between hosts would take one adapter of each; others use all as they are."""


def orders(seats: Seats, *, ring: bool) -> Orders:
    """A channel for each adapter that the participants of a machine use; none if that is one, or one machine has all.

    With `ring`, machines follow each other in a ring.
    """
    machines: dict[int, list[int]] = defaultdict(list)
    for participant, machine in enumerate(seats.machines):
        machines[machine].append(participant)
    channels = min(len({seats.hosts[member] for member in members}) for members in machines.values())
    if len(machines) == 1 or channels == 1:
        return ()
    found: list[tuple[int, ...]] = []
    for channel in range(channels):
        order: list[int] = []
        for number, members in enumerate(machines.values()):
            first = channel * len(members) // channels
            turned = members[first:] + members[:first]
            order += turned[::-1] if ring and number % 2 else turned
        found.append(tuple(order))
    return tuple(found)


def worthwhile(channels: int, size_bytes: int) -> int:
    """How many of some channels an operation uses: as many as get `LEAST_PIECE_BYTES` each, and one at least."""
    return max(1, min(channels, size_bytes // LEAST_PIECE_BYTES))


def share(operation: Operation, order: Sequence[int], channel: int, channels: int) -> Operation:
    """What one channel carries, with its participants in their order."""

    def part(size_bytes: int) -> int:
        return split_bytes(size_bytes, channels)[channel]

    match operation.op:
        case "all_reduce":
            blocks = tuple(split_bytes(part(sum(operation.blocks)), operation.size))
        case "broadcast":
            blocks = (part(operation.blocks[0]),)
        case _:
            blocks = tuple(part(operation.blocks[participant]) for participant in order)
    return operation._replace(blocks=blocks, root=order.index(operation.root))


def side_by_side(schedules: Sequence[MessageColumns], found: Orders) -> MessageColumns:
    """The messages of all channels, each of which waits for messages of its own channel alone."""
    places = [np.array(order, dtype=np.int64) for order in found]
    return joined(
        [
            MessageColumns(Shape(place[one.src], place[one.dst], one.after_begin, one.after), one.bytes)
            for place, one in zip(places, schedules, strict=True)
        ]
    )
