"""Schedules of single-level algorithms: direct, ring, binomial tree, recursive doubling, and the barrier.

Each message waits for the data that it carries, and for nothing else. Sources: Patarasuk, Yuan: Bandwidth optimal
all-reduce algorithms for clusters of workstations, JPDC 2009, section 4, for rings; Thakur, Rabenseifner, Gropp:
Optimization of collective communication operations in MPICH, IJHPCA 2005, sections 4.1, 4.2, 4.4, 4.5, for the tree and
exchanges at distances that double or halve; Sanders, Speck, Träff: Two-tree algorithms for full bandwidth broadcast,
reduction and scan, Parallel Computing 2009, sections 2 and 3, for all-reduce on binary trees, pipelined, without the
edge colours, which schedule single ports where here messages share links.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from netsim.collective.protocol import Message, Operation
from netsim.foundation.units import split_bytes

MOST_PIECES = 64
LEAST_PIECE_BYTES = 64 * 1024


def pieces(size_bytes: int) -> list[int]:
    """Cuts a buffer into up to `MOST_PIECES` of at least `LEAST_PIECE_BYTES`; a buffer below two of those stays whole.

    More pieces fill a pipeline sooner, but each costs a latency: a piece leaves a rank for another only when the piece
    before it has arrived there. With k pieces a tree of height h takes 2 h + k - 1 such steps.
    """
    return split_bytes(size_bytes, min(max(size_bytes // LEAST_PIECE_BYTES, 1), MOST_PIECES))


class Schedule:
    """Messages in program order; each waits for all earlier messages that brought its sender one of its blocks."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self.messages: list[Message] = []
        self._blocks = blocks
        self._brought: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))

    def send(self, src: int, dst: int, blocks: tuple[int, ...]) -> None:
        """Adds a message that carries `blocks` from `src` to `dst`."""
        message, come = len(self.messages), self._brought[src]
        after = {earlier for block in blocks if block in come for earlier in come[block]}
        size_bytes = sum(map(self._blocks.__getitem__, blocks))
        self.messages.append(Message(message, src, dst, size_bytes, blocks, tuple(sorted(after))))
        brought = self._brought[dst]
        for block in blocks:
            brought[block].append(message)


def in_rounds(rounds: Iterable[Sequence[tuple[int, int]]], blocks: Sequence[int]) -> list[Message]:
    """Messages with all blocks, in rounds of (sender, receiver): each waits for all that its sender got before."""
    messages: list[Message] = []
    size_bytes, everything = sum(blocks), tuple(range(len(blocks)))
    heard: dict[int, tuple[int, ...]] = {}
    for pairs in rounds:
        before = heard.copy()
        for src, dst in pairs:
            heard[dst] = (*heard.get(dst, ()), len(messages))
            messages.append(Message(len(messages), src, dst, size_bytes, everything, before.get(src, ())))
    return messages


def direct_broadcast(operation: Operation) -> list[Message]:
    """The root sends to all others."""
    size, root, size_bytes = operation.size, operation.root, operation.blocks[0]
    return [Message(k - 1, root, (root + k) % size, size_bytes, (0,), ()) for k in range(1, size)]


def send(operation: Operation) -> list[Message]:
    """One message from participant 0 to participant 1."""
    return [Message(0, 0, 1, operation.blocks[0], (0,), ())]


def ring_broadcast(operation: Operation) -> list[Message]:
    """A chain from the root around the ring: k pieces take size + k - 2 rounds; each follows the one before it."""
    size, root = operation.size, operation.root
    messages: list[Message] = []
    for piece, size_bytes in enumerate(pieces(operation.blocks[0])):
        for hop in range(size - 1):
            received = (len(messages) - 1,) if hop else ()
            ahead = (len(messages) - size + 1,) if piece else ()
            src, dst = (root + hop) % size, (root + hop + 1) % size
            messages.append(Message(len(messages), src, dst, size_bytes, (piece,), ahead + received))
    return messages


def tree_broadcast(operation: Operation) -> list[Message]:
    """Binomial, not pipelined: ceil(log2(size)) rounds; sends of a participant, one a round, wait for each other."""
    size, root = operation.size, operation.root
    messages: list[Message] = []
    last: dict[int, int] = {}
    reach = 1
    while reach < size:
        for holder in range(min(reach, size - reach)):
            after = (last[holder],) if holder in last else ()
            message = len(messages)
            src, dst = (root + holder) % size, (root + holder + reach) % size
            messages.append(Message(message, src, dst, operation.blocks[0], (0,), after))
            last[holder] = last[holder + reach] = message
        reach *= 2
    return messages


def recursive_doubling_all_reduce(operation: Operation) -> list[Message]:
    """log2(size) rounds; for other sizes than powers of two up to two more, to the leaders of teams and back."""
    leaders = [team[0] for team in teams(operation.size)]
    pairs = [(team[0], team[1]) for team in teams(operation.size) if len(team) == 2]
    rounds = [[(second, leader) for leader, second in pairs]]
    reach = 1
    while reach < len(leaders):
        rounds.append([(leader, leaders[i ^ reach]) for i, leader in enumerate(leaders)])
        reach *= 2
    return in_rounds([*rounds, pairs], operation.blocks)


def teams(size: int) -> list[range]:
    """Divides participants into a power of two of teams: the first teams have two neighbours, all others one member.

    Teams of two act as one: the second member sends its input to the leader and gets the result back, which takes up
    to two more rounds.
    """
    number = 1 << (size.bit_length() - 1)
    double = size - number
    return [range(2 * i, 2 * i + 2) for i in range(double)] + [range(i, i + 1) for i in range(2 * double, size)]


def barrier(operation: Operation) -> list[Message]:
    """ceil(log2(size)) rounds; in round k participant i signals participant i + 2**k, by a message without bytes.

    Hensgen, Finkel, Manber: Two algorithms for barrier synchronization, IJPP 1988.
    """
    size = operation.size
    reaches = (2**k for k in range((size - 1).bit_length()))
    return in_rounds(([(i, (i + reach) % size) for i in range(size)] for reach in reaches), blocks=(0,))


Edges = list[tuple[int, int]]
Pipeline = tuple[Edges, list[int]]
"""A tree, and the bytes of the pieces that go over it one after another.

On one tree of height h = floor(log2(size)) k pieces take 2 h + k - 1 rounds; a small vector goes whole, k = 1. On two
trees no participant sends or receives more than twice the vector.
"""


def one_tree(operation: Operation) -> list[Pipeline]:
    """The tree that carries the whole vector."""
    return [(in_order_tree(operation.size), pieces(sum(operation.blocks)))]


def two_trees(operation: Operation) -> list[Pipeline]:
    """The trees that carry half of the vector each; inner nodes of one are leaves of the other."""
    size = operation.size
    first = in_order_tree(size)
    second = [((child + 1) % size, (parent + 1) % size) for child, parent in first]
    halves = split_bytes(sum(operation.blocks), 2)
    return [(tree, pieces(half)) for tree, half in zip((first, second), halves, strict=True)]


def both_directions(tree: Edges) -> Edges:
    """Edges (sender, receiver) that a piece passes on a tree: up to the root, then down from it."""
    return [*tree, *((parent, child) for child, parent in reversed(tree))]


def in_order_tree(size: int) -> Edges:
    """Edges from child to parent, from the bottom up, of a tree whose leaves are participants 0, 2, 4, ...

    Number the places from 1. The height of a place is its lowest set bit; its parent is the place with that bit cleared
    and the next one set or, where that lies beyond the last place, the parent of that.
    """
    edges: Edges = []
    lowest = 1
    while 2 * lowest <= size:
        for place in range(lowest, size + 1, 2 * lowest):
            parent, bit = place, lowest
            while parent == place or parent > size:
                parent, bit = parent & ~bit | 2 * bit, 2 * bit
            edges.append((place - 1, parent - 1))
        lowest *= 2
    return edges
