"""Ring algorithms: every participant sends to its successor only.

Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 2009, section 4.
"""

from netsim.collective.pieces import pieces
from netsim.collective.protocol import Message, Operation


def reduce_scatter(operation: Operation) -> list[Message]:
    """size-1 rounds; in round k participant i passes on its partial sum of block i-k-1, block i ends complete at i."""
    return _rounds(operation, operation.size - 1, shift=-1)


def all_gather(operation: Operation) -> list[Message]:
    """size-1 rounds; in round k participant i passes on block i-k."""
    return _rounds(operation, operation.size - 1, shift=0)


def all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter, then all-gather: 2 (size-1) rounds. Round size-1 sends the block that has just been completed."""
    return _rounds(operation, 2 * (operation.size - 1), shift=-1)


def broadcast(operation: Operation) -> list[Message]:
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


def _rounds(operation: Operation, rounds: int, shift: int) -> list[Message]:
    size, blocks = operation.size, [(block,) for block in range(operation.size)]
    messages: list[Message] = []
    for k in range(rounds):
        for i in range(size):
            block = (i + shift - k) % size
            after = ((k - 1) * size + (i - 1) % size,) if k else ()
            messages.append(Message(len(messages), i, (i + 1) % size, operation.blocks[block], blocks[block], after))
    return messages
