"""All-reduce on binary trees, pipelined: pieces are summed on the way to the root, and the sums come back down.

Sanders, Speck, Träff: Two-tree algorithms for full bandwidth broadcast, reduction and scan, Parallel Computing 2009,
sections 2 and 3; without the edge colours, which schedule single ports where here messages share links.
"""

from netsim.collective.algorithms import pieces
from netsim.collective.protocol import Message, Operation
from netsim.units import split_bytes

Edges = list[tuple[int, int]]
Pipeline = tuple[Edges, list[int]]
"""A tree, and the bytes of the pieces that go over it one after another."""


def binary_tree_all_reduce(operation: Operation) -> list[Message]:
    """One tree of height h = floor(log2(size)): k pieces take 2 h + k - 1 rounds; a small vector goes whole, k = 1."""
    return _up_and_down(one_tree(operation))


def double_tree_all_reduce(operation: Operation) -> list[Message]:
    """Two trees, each with half of the vector, so that no participant sends or receives more than twice the vector."""
    return _up_and_down(two_trees(operation))


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


def both_ways(tree: Edges) -> Edges:
    """From whom to whom a piece goes on a tree: up to the root, then down from it."""
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


def _up_and_down(pipelines: list[Pipeline]) -> list[Message]:
    """The messages of each piece, one tree after the other; on every edge a piece follows the piece before it."""
    messages: list[Message] = []
    number = 0
    for tree, cut in pipelines:
        ways, ahead = both_ways(tree), dict[tuple[int, int], tuple[int, ...]]()
        for piece, size_bytes in enumerate(cut, start=number):
            received: dict[int, tuple[int, ...]] = {}
            for src, dst in ways:
                message = len(messages)
                after = ahead.get((src, dst), ()) + received.get(src, ())
                messages.append(Message(message, src, dst, size_bytes, (piece,), after))
                ahead[src, dst] = (message,)
                received[dst] = (*received.get(dst, ()), message)
        number += len(cut)
    return messages
