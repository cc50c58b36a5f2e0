"""Runs schedules on sets of contributions instead of bytes, and measures them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from netsim.collective.algorithms import (
    direct_broadcast,
    recursive_doubling_all_reduce,
    ring_broadcast,
    tree_broadcast,
)
from netsim.collective.protocol import CollectiveAlgorithm, Message, Operation
from netsim.collective.two_level import (
    hierarchical_all_gather,
    hierarchical_all_reduce,
    hierarchical_all_to_all,
    hierarchical_reduce_scatter,
    rails_all_to_all,
    two_phase_all_to_all,
)
from tests.netsim.plain_schedules import (
    binary_tree_all_reduce,
    direct_all_gather,
    direct_all_reduce,
    direct_all_to_all,
    direct_reduce_scatter,
    double_tree_all_reduce,
    halving_doubling_all_gather,
    halving_doubling_all_reduce,
    halving_doubling_reduce_scatter,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
)

ALGORITHMS: dict[tuple[str, str], CollectiveAlgorithm] = {
    ("all_reduce", "ring"): ring_all_reduce,
    ("all_reduce", "tree"): binary_tree_all_reduce,
    ("all_reduce", "double_tree"): double_tree_all_reduce,
    ("all_reduce", "recursive_doubling"): recursive_doubling_all_reduce,
    ("all_reduce", "halving_doubling"): halving_doubling_all_reduce,
    ("all_reduce", "direct"): direct_all_reduce,
    ("all_reduce", "hierarchical"): hierarchical_all_reduce,
    ("all_gather", "ring"): ring_all_gather,
    ("all_gather", "direct"): direct_all_gather,
    ("all_gather", "halving_doubling"): halving_doubling_all_gather,
    ("all_gather", "hierarchical"): hierarchical_all_gather,
    ("reduce_scatter", "ring"): ring_reduce_scatter,
    ("reduce_scatter", "direct"): direct_reduce_scatter,
    ("reduce_scatter", "halving_doubling"): halving_doubling_reduce_scatter,
    ("reduce_scatter", "hierarchical"): hierarchical_reduce_scatter,
    ("all_to_all", "direct"): direct_all_to_all,
    ("all_to_all", "two_phase"): two_phase_all_to_all,
    ("all_to_all", "hierarchical"): hierarchical_all_to_all,
    ("all_to_all", "pxn"): rails_all_to_all,
    ("broadcast", "tree"): tree_broadcast,
    ("broadcast", "ring"): ring_broadcast,
    ("broadcast", "direct"): direct_broadcast,
}


def algorithms(op: str) -> list[str]:
    """Names of the algorithms of an operation."""
    return [name for of, name in ALGORITHMS if of == op]


def schedule(op: str, name: str, size: int, **fields: object) -> list[Message]:
    """The messages of an algorithm, checked for their form."""
    messages = ALGORITHMS[op, name](Operation(op, size, **fields))  # type: ignore[arg-type]
    check_form(messages, size)
    return messages


def check_form(messages: Sequence[Message], size: int) -> None:
    """Ids are positions; what a message waits for lies before it and has passed its sender.

    Who sends to itself sends nothing.
    """
    for position, message in enumerate(messages):
        assert message.id == position
        assert message.src != message.dst or not message.bytes
        assert {message.src, message.dst} <= set(range(size))
        assert all(earlier < position for earlier in message.after)
        assert len(set(message.after)) == len(message.after)
        assert all(message.src in (messages[earlier].dst, messages[earlier].src) for earlier in message.after)
        assert len(set(message.blocks)) == len(message.blocks)


State = dict[tuple[int, int], frozenset[int]]
"""Whose contributions a rank holds of a block; key: rank and block."""


class Executed(NamedTuple):
    """What each message carried of each of its blocks, and what everyone holds in the end."""

    carried: list[dict[int, frozenset[int]]]
    held: State


def execute(
    messages: Sequence[Message], start: Mapping[tuple[int, int], frozenset[int]], complete: int = 0
) -> Executed:
    """Adds what a message brings to what its receiver holds of the block.

    A message carries what its sender holds when only the messages that it waits for, directly or through others, have
    arrived: whatever else may come early or late, nothing hangs on it.

    Args:
        messages: A schedule.
        start: What everyone holds.
        complete: Number of contributions to a block that make it complete and may replace a part of it. Otherwise no
            contribution may come twice.
    """
    ancestors: list[int] = []
    arrivals: dict[int, list[int]] = {}
    carried: list[dict[int, frozenset[int]]] = []
    for message in messages:
        before = 0
        for earlier in message.after:
            before |= ancestors[earlier] | 1 << earlier
        ancestors.append(before)
        view = {block: start.get((message.src, block), frozenset()) for block in message.blocks}
        for earlier in arrivals.get(message.src, ()):
            if before >> earlier & 1:
                _arrive(view, carried[earlier], complete)
        carried.append({block: view[block] for block in message.blocks})
        assert all(carried[-1].values()), f"{message} carries what its sender does not have"
        arrivals.setdefault(message.dst, []).append(message.id)
    held: State = dict(start)
    for rank, come in arrivals.items():
        view = {block: parts for (owner, block), parts in start.items() if owner == rank}
        for earlier in come:
            for block in carried[earlier]:
                view.setdefault(block, frozenset())
            _arrive(view, carried[earlier], complete)
        held.update({(rank, block): parts for block, parts in view.items()})
    return Executed(carried, held)


def _arrive(view: dict[int, frozenset[int]], brought: Mapping[int, frozenset[int]], complete: int) -> None:
    for block in view.keys() & brought.keys():
        twice = view[block] & brought[block]
        assert not twice or len(brought[block]) == complete, f"block {block}: contributions of {set(twice)} twice"
        view[block] |= brought[block]


def finish(messages: Sequence[Message], alpha: int, beta: int) -> int:
    """When all is done if a message of b bytes takes `alpha` + `beta` b and shares no link with others."""
    done: list[int] = []
    for message in messages:
        cost = alpha + beta * message.bytes if message.src != message.dst else 0
        done.append(cost + max((done[earlier] for earlier in message.after), default=0))
    return max(done, default=0)


def depth(messages: Sequence[Message]) -> int:
    """Number of messages on the longest chain."""
    return finish(messages, 1, 0)


def sent(messages: Sequence[Message], size: int) -> list[int]:
    """Bytes that each rank sends."""
    volume: Counter[int] = Counter()
    for message in messages:
        volume[message.src] += message.bytes
    return [volume[rank] for rank in range(size)]


def received(messages: Sequence[Message], size: int) -> list[int]:
    """Bytes that each rank receives."""
    volume: Counter[int] = Counter()
    for message in messages:
        volume[message.dst] += message.bytes
    return [volume[rank] for rank in range(size)]
