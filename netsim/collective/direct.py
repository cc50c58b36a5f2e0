"""Direct algorithms: every participant sends to every other at once."""

from collections.abc import Iterator

from netsim.collective.protocol import Message, Operation


def all_to_all(operation: Operation) -> list[Message]:
    """One message for each ordered pair; none waits for another, and a participant's own block stays."""
    blocks = [(j,) for j in range(operation.size)]
    return [Message(n, i, j, operation.matrix[i][j], blocks[j], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def reduce_scatter(operation: Operation) -> list[Message]:
    """Every participant sends its part of block j to participant j, which sums the parts."""
    sizes, blocks = operation.blocks, [(j,) for j in range(operation.size)]
    return [Message(n, i, j, sizes[j], blocks[j], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def all_gather(operation: Operation) -> list[Message]:
    """Every participant sends its block to all others."""
    sizes, blocks = operation.blocks, [(j,) for j in range(operation.size)]
    return [Message(n, i, j, sizes[i], blocks[i], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter, then all-gather; participant j sends block j once it has received all parts of it."""
    size, sizes, blocks = operation.size, operation.blocks, [(j,) for j in range(operation.size)]
    if size == 1:
        return []
    parts = reduce_scatter(operation)
    needed: list[list[int]] = [[] for _ in range(size)]
    for message in parts:
        needed[message.dst].append(message.id)
    sums = [Message(len(parts) + j, j, j, 0, (), tuple(needed[j])) for j in range(size)]
    ready = [(message.id,) for message in sums]
    results = enumerate(_pairs(size), start=len(parts) + size)
    return [*parts, *sums, *(Message(n, i, j, sizes[i], blocks[i], ready[i]) for n, (i, j) in results)]


def broadcast(operation: Operation) -> list[Message]:
    """The root sends to all others."""
    size, root, size_bytes = operation.size, operation.root, operation.blocks[0]
    return [Message(k - 1, root, (root + k) % size, size_bytes, (0,), ()) for k in range(1, size)]


def send(operation: Operation) -> list[Message]:
    """One message from participant 0 to participant 1."""
    return [Message(0, 0, 1, operation.blocks[0], (0,), ())]


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    """Each participant with all others, its successor first."""
    return ((i, j) for i in range(size) for j in (*range(i + 1, size), *range(i)))
