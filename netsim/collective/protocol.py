"""The protocol of collectives: an operation says which data must move, an algorithm turns it into messages."""

from collections.abc import Callable
from typing import NamedTuple


class Operation(NamedTuple):
    """One collective among participants 0..size-1: what must move, without the algorithm."""

    op: str  # all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send or barrier
    size: int  # number of participants
    # Bytes by block. all_reduce: any cut of the vector into `size` blocks; all_gather and reduce_scatter: block i
    # starts, or ends, at participant i; broadcast and send: one block; barrier: none
    blocks: tuple[int, ...] = ()
    matrix: tuple[tuple[int, ...], ...] = ()  # bytes from row to column, own block included; all_to_all only
    root: int = 0  # participant that broadcasts
    hosts: tuple[int, ...] = ()  # host of each participant, any numbers; empty: no two participants share a host
    # Rail of each participant, for algorithms that know rails; empty: its place among those of its host
    rails: tuple[int, ...] = ()


class Message(NamedTuple):
    """One message of a schedule."""

    id: int  # its index in the schedule
    src: int  # participant that sends
    dst: int  # participant that receives; the sender itself for a message that only joins the messages of `after`
    bytes: int  # payload, may be 0
    # Which blocks it carries. all_to_all: block j is what the sender holds for participant j; algorithms that cut the
    # whole into pieces (`netsim.collective.algorithms`): the piece
    blocks: tuple[int, ...]
    after: tuple[int, ...]  # ids of messages that must have arrived before this one may leave; all smaller than `id`


CollectiveAlgorithm = Callable[[Operation], list[Message]]
"""A pure function from an operation to the messages that carry it out.

Raises:
    ValueError: The algorithm does not work for these participants; the text is ``problem; remedy``.
"""
