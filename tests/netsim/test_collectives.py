"""Schedules, run on sets of contributions instead of bytes."""

import math

import pytest

from netsim.collective import barrier, direct, ring, tree
from netsim.collective.protocol import Message, Operation

SIZES = range(1, 10)


def run(messages: list[Message], state: list[dict[int, set[int]]]) -> list[dict[int, set[int]]]:
    """Each message adds what its sender knows about a block to what its receiver knows.

    A message takes what the sender has once the messages it waits for have arrived, and nothing that comes later: it is
    run against every other order of independent messages by delaying all others as long as possible.
    """
    known: list[dict[int, set[int]]] = []
    for message in messages:
        needed = {message.id}
        for m in reversed(messages[: message.id]):
            if any(m.id in messages[later].after for later in needed):
                needed.add(m.id)
        view = [{block: set(parts) for block, parts in rank.items()} for rank in state]
        for identity in sorted(needed - {message.id}):
            earlier = messages[identity]
            view[earlier.dst].setdefault(earlier.block, set()).update(known[identity].get(earlier.block, set()))
        known.append({message.block: set(view[message.src].get(message.block, set()))})
    final = [{block: set(parts) for block, parts in rank.items()} for rank in state]
    for message in messages:
        final[message.dst].setdefault(message.block, set()).update(known[message.id][message.block])
    return final


def contributions(size: int) -> list[dict[int, set[int]]]:
    """Every rank holds its own part of every block."""
    return [{block: {rank} for block in range(size)} for rank in range(size)]


def check_form(messages: list[Message], size: int) -> None:
    """Ids are positions, dependencies lie before and arrive at the sender, nobody sends to itself."""
    for position, message in enumerate(messages):
        assert message.id == position
        assert message.src != message.dst
        assert {message.src, message.dst} <= set(range(size))
        assert all(earlier < position for earlier in message.after)
        assert all(message.src in (messages[earlier].dst, messages[earlier].src) for earlier in message.after)


@pytest.mark.parametrize("size", SIZES)
def test_ring_all_reduce(size):
    blocks = tuple(range(100, 100 + size))
    messages = ring.all_reduce(Operation("all_reduce", size, blocks=blocks))
    check_form(messages, size)
    everyone = set(range(size))
    assert all(rank[block] == everyone for rank in run(messages, contributions(size)) for block in range(size))
    assert sum(message.bytes for message in messages) == 2 * (size - 1) * sum(blocks)
    assert len(messages) == 2 * (size - 1) * size
    assert all(message.dst == (message.src + 1) % size for message in messages)


@pytest.mark.parametrize("size", SIZES)
def test_ring_reduce_scatter(size):
    blocks = tuple(range(size))
    messages = ring.reduce_scatter(Operation("reduce_scatter", size, blocks=blocks))
    check_form(messages, size)
    final = run(messages, contributions(size))
    assert all(final[rank][rank] == set(range(size)) for rank in range(size))
    assert sum(message.bytes for message in messages) == (size - 1) * sum(blocks)


@pytest.mark.parametrize("size", SIZES)
def test_ring_all_gather(size):
    blocks = tuple(10 * rank for rank in range(size))
    messages = ring.all_gather(Operation("all_gather", size, blocks=blocks))
    check_form(messages, size)
    final = run(messages, [{rank: {rank}} for rank in range(size)])
    assert all(rank == {block: {block} for block in range(size)} for rank in final)
    assert sum(message.bytes for message in messages) == (size - 1) * sum(blocks)


@pytest.mark.parametrize("size", SIZES)
def test_ring_depends_in_as_many_rounds_as_the_closed_form_says(size):
    messages = ring.all_reduce(Operation("all_reduce", size, blocks=(1,) * size))
    depth: list[int] = []
    for message in messages:
        depth.append(1 + max((depth[earlier] for earlier in message.after), default=0))
    assert max(depth, default=0) == 2 * (size - 1)


@pytest.mark.parametrize("size", SIZES)
def test_direct_all_to_all(size):
    matrix = tuple(tuple(100 * i + j for j in range(size)) for i in range(size))
    messages = direct.all_to_all(Operation("all_to_all", size, matrix=matrix))
    check_form(messages, size)
    assert sorted((m.src, m.dst, m.bytes) for m in messages) == sorted(
        (i, j, matrix[i][j]) for i in range(size) for j in range(size) if i != j
    )
    final = run(messages, contributions(size))
    assert all(final[rank][rank] == set(range(size)) for rank in range(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("root", [0, 3])
def test_tree_broadcast(size, root):
    root %= size
    messages = tree.broadcast(Operation("broadcast", size, blocks=(7,), root=root))
    check_form(messages, size)
    final = run(messages, [{0: {0}} if rank == root else {} for rank in range(size)])
    assert all(rank == {0: {0}} for rank in final)
    assert len(messages) == size - 1
    depth: list[int] = []
    for message in messages:
        depth.append(1 + max((depth[earlier] for earlier in message.after), default=0))
    assert max(depth, default=0) == math.ceil(math.log2(size))


@pytest.mark.parametrize("size", SIZES)
def test_barrier_lets_nobody_through_before_all_have_come(size):
    messages = barrier.barrier(Operation("barrier", size))
    check_form(messages, size)
    assert all(rank[0] == set(range(size)) for rank in run(messages, [{0: {rank}} for rank in range(size)]))
    assert all(message.bytes == 0 for message in messages)


def test_send():
    assert direct.send(Operation("send", 2, blocks=(5,))) == [Message(0, 0, 1, 5, 0, ())]
