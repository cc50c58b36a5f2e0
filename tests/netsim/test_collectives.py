"""Every schedule delivers exactly what its collective means, whatever arrives early or late."""

from itertools import product

import pytest

from netsim.collective.algorithms import LEAST_PIECE_BYTES, barrier, send
from netsim.collective.protocol import Message, Operation
from tests.each import each
from tests.netsim.schedules import ALGORITHMS, algorithms, check_form, execute, schedule

SIZES = [*range(1, 10), 12, 16, 17]
BY_PIECES = ("tree", "double_tree")


def hosts_of(size: int) -> list[tuple[int, ...]]:
    """Placements with as many ranks on each host: blocks of neighbours, in turn, and hosts in another order."""
    widths = [width for width in range(1, size + 1) if size % width == 0]
    blocks = [tuple(rank // width for rank in range(size)) for width in widths]
    turns = [tuple(rank % width for rank in range(size)) for width in widths]
    return [*blocks, *turns, *(tuple(7 * (100 - host) for host in hosts) for hosts in blocks)]


def placements(name: str, size: int) -> list[tuple[int, ...]]:
    return hosts_of(size) if name in ("hierarchical", "pxn") else [()]


def uneven(size: int) -> tuple[int, ...]:
    """Sizes of blocks, one of them 0."""
    return tuple((rank * rank + 3 * rank) % 11 for rank in range(size))


@each("size, name", product(SIZES, algorithms("all_reduce")))
def test_all_reduce(name, size):
    everyone = frozenset(range(size))
    blocks = tuple(size_bytes * LEAST_PIECE_BYTES for size_bytes in uneven(size))
    for hosts in placements(name, size):
        messages = schedule("all_reduce", name, size, blocks=blocks, hosts=hosts)
        carried = {block for message in messages for block in message.blocks} or {0}
        assert name in BY_PIECES or size == 1 or carried == set(range(size))
        start = {(rank, block): frozenset((rank,)) for rank in everyone for block in carried}
        held = execute(messages, start, complete=size).held
        assert held == dict.fromkeys(start, everyone)
        if name in BY_PIECES:
            piece = {message.blocks[0]: message.bytes for message in messages}
            assert all(message.bytes == piece[message.blocks[0]] for message in messages)
            assert size == 1 or sum(piece.values()) == sum(blocks)
        else:
            assert all(message.bytes == sum(blocks[block] for block in message.blocks) for message in messages)


@each("size, name", product(SIZES, algorithms("reduce_scatter")))
def test_reduce_scatter(name, size):
    everyone, blocks = frozenset(range(size)), uneven(size)
    for hosts in placements(name, size):
        messages = schedule("reduce_scatter", name, size, blocks=blocks, hosts=hosts)
        start = {(rank, block): frozenset((rank,)) for rank in everyone for block in everyone}
        held = execute(messages, start, complete=size).held
        assert all(held[rank, rank] == everyone for rank in everyone)
        assert all(message.bytes == sum(blocks[block] for block in message.blocks) for message in messages)


@each("size, name", product(SIZES, algorithms("all_gather")))
def test_all_gather(name, size):
    everyone, blocks = frozenset(range(size)), uneven(size)
    for hosts in placements(name, size):
        messages = schedule("all_gather", name, size, blocks=blocks, hosts=hosts)
        held = execute(messages, {(rank, rank): frozenset((rank,)) for rank in everyone}).held
        assert held == {(rank, block): frozenset((block,)) for rank in everyone for block in everyone}
        assert all(message.bytes == sum(blocks[block] for block in message.blocks) for message in messages)


@each("size, name", product(SIZES, algorithms("all_to_all")))
def test_all_to_all(name, size):
    everyone = frozenset(range(size))
    matrix = tuple(tuple((7 * i + j * j) % 5 * (10 * i + j) for j in range(size)) for i in range(size))
    for hosts in placements(name, size):
        messages = schedule("all_to_all", name, size, matrix=matrix, hosts=hosts)
        start = {(rank, block): frozenset((rank,)) for rank in everyone for block in everyone}
        carried, held = execute(messages, start)
        assert all(held[rank, rank] == everyone for rank in everyone)
        for message, what in zip(messages, carried, strict=True):
            assert message.bytes == sum(matrix[source][block] for block in what for source in what[block])


@each("size, root, name", product(SIZES, [0, 3], algorithms("broadcast")))
def test_broadcast(name, root, size):
    whole, root = 5 * LEAST_PIECE_BYTES + 3, root % size
    messages = schedule("broadcast", name, size, blocks=(whole,), root=root)
    piece = {message.blocks[0]: message.bytes for message in messages}
    start = {(root, block): frozenset((root,)) for block in piece}
    held = execute(messages, start).held
    assert held == {(rank, block): frozenset((root,)) for rank in range(size) for block in piece}
    assert sum(message.bytes for message in messages) == (size - 1) * whole
    assert size == 1 or sum(piece.values()) == whole


@each("size", SIZES)
def test_barrier_lets_nobody_through_before_all_have_come(size):
    messages = barrier(Operation("barrier", size))
    check_form(messages, size)
    ancestors = [{message.src} for message in messages]
    told = [{rank} for rank in range(size)]
    for message in messages:
        ancestors[message.id].update(*(ancestors[earlier] for earlier in message.after))
        told[message.dst] |= ancestors[message.id]
    assert all(rank == set(range(size)) for rank in told)
    assert all(message.bytes == 0 for message in messages)


def test_send():
    assert send(Operation("send", 2, blocks=(5,))) == [Message(0, 0, 1, 5, (0,), ())]


@each("op", [op for op, name in ALGORITHMS if name == "hierarchical"])
def test_hosts_that_are_filled_unevenly_are_refused_with_a_remedy(op):
    with pytest.raises(ValueError, match=rf"^hosts hold 2 to 3 participants of the {op}; fill hosts evenly"):
        schedule(op, "hierarchical", 5, blocks=(1,) * 5, matrix=((1,) * 5,) * 5, hosts=(0, 0, 1, 1, 1))


@each("op, name", ALGORITHMS)
def test_no_bytes_at_all_are_no_special_case(op, name):
    messages = schedule(op, name, 6, blocks=(0,) * 6, matrix=((0,) * 6,) * 6)
    assert {message.dst for message in messages} | {0} == set(range(6))
