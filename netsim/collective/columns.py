"""Messages of a schedule as arrays, and the algorithms whose messages are too many for a tuple each."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from weakref import WeakValueDictionary

import numpy as np

from netsim.collective.algorithms import Edges, both_directions, one_tree, teams, two_trees
from netsim.collective.protocol import Message, Operation


class Shape:
    """Senders, receivers and order of a schedule, whatever the sizes.

    Message i waits for the messages after[after_begin[i]:after_begin[i + 1]].
    """

    def __init__(self, src: np.ndarray, dst: np.ndarray, after_begin: np.ndarray, after: np.ndarray) -> None:
        self.src, self.dst, self.after_begin, self.after = src, dst, after_begin, after

    @cached_property
    def of_members(self) -> tuple[np.ndarray, np.ndarray]:
        """How many messages each participant sends or receives, and their indices, participant by participant."""
        ends = np.stack([self.src, self.dst], axis=1).ravel()
        size = int(ends.max(initial=-1)) + 1
        narrow = ends.astype(np.int16 if size < 2**15 else np.int64)
        order = np.argsort(narrow, kind="stable")
        order >>= 1
        return np.bincount(ends, minlength=size), order.astype(np.int32)

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the entries of `after` if each message gets a further predecessor in front, and places of these."""
        count = len(self.src)
        first = self.after_begin[:-1] + np.arange(count)
        counts = np.diff(self.after_begin)
        return np.arange(len(self.after)) + np.repeat(np.arange(1, count + 1), counts), first


class MessageColumns:
    """The messages of a schedule as arrays. Equal collectives share them, so nothing may change them.

    `delay_ps` is the time between the arrival of what a message waits for and its start; None if absent.
    """

    def __init__(self, shape: Shape, bytes: np.ndarray, delay_ps: np.ndarray | None = None) -> None:
        self.shape, self.bytes, self.delay_ps = shape, bytes, delay_ps

    @property
    def src(self) -> np.ndarray:
        return self.shape.src

    @property
    def dst(self) -> np.ndarray:
        return self.shape.dst

    @property
    def after_begin(self) -> np.ndarray:
        return self.shape.after_begin

    @property
    def after(self) -> np.ndarray:
        return self.shape.after

    def delayed(self, delay_ps: np.ndarray) -> "MessageColumns":
        """The same messages, each with a delay."""
        return MessageColumns(self.shape, self.bytes, delay_ps)

    def repeated(self, sets: int, size: int) -> "MessageColumns":
        """The schedule, without delays, for `sets` groups of `size` participants, numbered group after group."""
        count, number = len(self), np.arange(sets)[:, None]
        shape = Shape(
            (self.src + size * number).ravel(),
            (self.dst + size * number).ravel(),
            np.append((self.after_begin[:-1] + len(self.after) * number).ravel(), sets * len(self.after)),
            (self.after + count * number).ravel(),
        )
        return MessageColumns(shape, np.tile(self.bytes, sets))

    def __len__(self) -> int:
        return len(self.bytes)

    @cached_property
    def payload(self) -> int:
        """Bytes of all messages."""
        return int(self.bytes.sum())


def message_columns(messages: Sequence[Message] | MessageColumns) -> MessageColumns:
    """Messages as arrays."""
    if isinstance(messages, MessageColumns):
        return messages
    count = len(messages)
    src, dst, size = (
        np.fromiter((message[field] for message in messages), dtype=np.int64, count=count) for field in (1, 2, 3)
    )
    begin = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter((len(message.after) for message in messages), np.int64, count), out=begin[1:])
    after = np.fromiter(chain.from_iterable(message.after for message in messages), np.int64, int(begin[-1]))
    return MessageColumns(Shape(src, dst, begin, after), size)


def joined(schedules: Sequence[MessageColumns]) -> MessageColumns:
    """Joins schedules into one; each message waits only for messages of its own schedule."""
    firsts = np.cumsum([0, *map(len, schedules)]).tolist()
    waits = np.concatenate([np.diff(one.after_begin) for one in schedules])
    shape = Shape(
        np.concatenate([one.src for one in schedules]),
        np.concatenate([one.dst for one in schedules]),
        np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(waits)]),
        np.concatenate([first + one.after for first, one in zip(firsts, schedules, strict=False)]),
    )
    return MessageColumns(shape, np.concatenate([one.bytes for one in schedules]))


_rings: WeakValueDictionary[tuple[int, int], Shape] = WeakValueDictionary()
"""Shapes of rings by participants and rounds, as long as a schedule has them: steps have rings of many sizes."""


def _ring(operation: Operation, rounds: int, shift: int) -> MessageColumns:
    """In each round every participant sends its successor the block that it got in the round before."""
    size = operation.size
    turn, src = (part.ravel() for part in np.indices((rounds, size), dtype=np.int32))
    size_bytes = np.array(operation.blocks, dtype=np.int64)[(src + shift - turn) % size]
    shape = _rings.get((size, rounds))
    if shape is None:
        after_begin = np.maximum(np.arange(rounds * size + 1) - size, 0)
        after = (turn[size:] - 1) * size + (src[size:] - 1) % size
        shape = _rings[size, rounds] = Shape(src, (src + 1) % size, after_begin, after)
    return MessageColumns(shape, size_bytes)


def _pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (sender, receiver) of each participant with all others, its successor first."""
    src, ahead = (part.ravel() for part in np.indices((size, size - 1)))
    ahead += src
    ahead += 1
    ahead[ahead >= size] -= size
    return src, ahead


def _matrix(operation: Operation) -> np.ndarray:
    """Bytes from participant [row] to participant [column]; a row object that all rows share is converted once."""
    once = {id(row): row for row in operation.matrix}
    if len(once) == 1:
        return np.broadcast_to(np.array(operation.matrix[0], dtype=np.int64), (operation.size, operation.size))
    return np.array(operation.matrix, dtype=np.int64)


def _all_at_once(operation: Operation, size_bytes: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> MessageColumns:
    src, dst = _pairs(operation.size)
    waits = np.zeros(len(src) + 1, dtype=np.int64)
    return MessageColumns(Shape(src, dst, waits, waits[:0]), size_bytes(src, dst))


def _direct_all_reduce(operation: Operation) -> MessageColumns:
    """Reduce-scatter, then all-gather; participant j sends block j once it has received all parts of it."""
    size = operation.size
    parts = IN_COLUMNS["reduce_scatter", "direct"](operation)
    results = IN_COLUMNS["all_gather", "direct"](operation)
    if size == 1:
        return parts
    members, count = np.arange(size), len(parts)
    waits = np.zeros(2 * count + size, dtype=np.int64)
    waits[count : count + size] = size - 1
    waits[count + size :] = 1
    after = np.concatenate([np.argsort(parts.dst, kind="stable"), count + results.src])
    shape = Shape(
        np.concatenate([parts.src, members, results.src]),
        np.concatenate([parts.dst, members, results.dst]),
        np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(waits)]),
        after,
    )
    return MessageColumns(shape, np.concatenate([parts.bytes, np.zeros(size, dtype=np.int64), results.bytes]))


def _on_tree(tree: Edges, cut: list[int]) -> MessageColumns:
    """Pieces up to the root and down again; on every edge a piece follows the piece before it."""
    edges = both_directions(tree)
    count, pieces = len(edges), len(cut)
    before = _into_sources(edges)
    first = np.fromiter(chain.from_iterable(before), np.int64)
    later = np.fromiter(chain.from_iterable((edge - count, *others) for edge, others in enumerate(before)), np.int64)
    after = np.concatenate([first, (np.arange(1, pieces)[:, None] * count + later).ravel()])
    waits = np.array([len(others) for others in before], dtype=np.int64)
    begin = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), waits, np.tile(waits + 1, pieces - 1)]))
    src, dst = np.tile(np.array(edges, dtype=np.int64).reshape(count, 2), (pieces, 1)).T
    return MessageColumns(Shape(src, dst, begin, after), np.repeat(np.array(cut, dtype=np.int64), count))


def _into_sources(edges: Edges) -> list[list[int]]:
    """Returns for each edge the earlier edges that end at its source."""
    received: defaultdict[int, list[int]] = defaultdict(list)
    before: list[list[int]] = []
    for edge, (src, dst) in enumerate(edges):
        before.append(received[src].copy())
        received[dst].append(edge)
    return before


def _blocks(operation: Operation) -> np.ndarray:
    return np.array(operation.blocks, dtype=np.int64)


def _exchanges(operation: Operation) -> MessageColumns:
    """Leaders of teams exchange blocks with partners at distances that halve to scatter them, and double to gather.

    In log2(size) rounds a power of two of participants moves m (size-1)/size bytes each, m being the whole; an
    all-reduce (Rabenseifner's) takes both. A leader sends what it has for its partner after all rounds before. A round
    has the partner of each team, the first of the teams whose blocks go to it, and their number.
    """
    size, members, blocks = operation.size, teams(operation.size), _blocks(operation)
    count, pairs = len(members), size - len(members)
    team, leaders = np.arange(count), np.array([one.start for one in members])
    first, second, own = leaders[:pairs], leaders[:pairs] + 1, blocks[leaders[:pairs] + 1]
    before = np.append(0, np.cumsum(blocks))[np.append(leaders, size)]
    scatters, gathers = operation.op != "all_gather", operation.op != "reduce_scatter"
    reaches = [1 << power for power in range(count.bit_length() - 1)]
    rounds = [(team ^ reach, (team ^ reach) // reach * reach, reach) for reach in reversed(reaches) if scatters]
    rounds += [(team ^ reach, team // reach * reach, reach) for reach in reaches if gathers]
    sizes = [before[held + reach] - before[held] for _, held, reach in rounds]
    received = np.stack([team, *(pairs + number * count + one[0] for number, one in enumerate(rounds))], axis=1)
    there = np.ones_like(received, dtype=bool)
    there[pairs:, 0] = False
    returned = np.s_[:pairs, 0 if scatters else 1 :]
    awaited = [np.s_[:pairs, :0], *(np.s_[:, : number + 1] for number in range(len(rounds))), returned]
    waits = np.concatenate([there[part].sum(axis=1) for part in awaited])
    shape = Shape(
        np.concatenate([second, *[leaders] * len(rounds), first]),
        np.concatenate([first, *(leaders[partner] for partner, _, _ in rounds), second]),
        np.append(0, np.cumsum(waits)),
        np.concatenate([received[part][there[part]] for part in awaited]),
    )
    whole = np.full(pairs, before[-1])
    joining = whole if scatters else own
    back = {"all_reduce": whole, "all_gather": whole - own, "reduce_scatter": own}[operation.op]
    return MessageColumns(shape, np.concatenate([joining, *sizes, back]))


IN_COLUMNS: dict[tuple[str, str], Callable[[Operation], MessageColumns]] = {
    ("reduce_scatter", "ring"): lambda operation: _ring(operation, operation.size - 1, -1),
    ("all_gather", "ring"): lambda operation: _ring(operation, operation.size - 1, 0),
    ("all_reduce", "ring"): lambda operation: _ring(operation, 2 * (operation.size - 1), -1),
    ("all_reduce", "tree"): lambda operation: joined([_on_tree(*tree) for tree in one_tree(operation)]),
    ("all_reduce", "double_tree"): lambda operation: joined([_on_tree(*tree) for tree in two_trees(operation)]),
    ("all_to_all", "direct"): lambda op: _all_at_once(op, lambda src, dst: _matrix(op)[src, dst]),
    ("reduce_scatter", "halving_doubling"): _exchanges,
    ("reduce_scatter", "direct"): lambda op: _all_at_once(op, lambda _, dst: _blocks(op)[dst]),
    ("all_gather", "halving_doubling"): _exchanges,
    ("all_gather", "direct"): lambda op: _all_at_once(op, lambda src, _: _blocks(op)[src]),
    ("all_reduce", "halving_doubling"): _exchanges,
    ("all_reduce", "direct"): _direct_all_reduce,
}
"""Algorithms of many messages, by operation and name, in arrays."""
