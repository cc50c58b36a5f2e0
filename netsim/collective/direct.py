"""Everyone sends to everyone at once."""

from netsim.collective.protocol import Message, Operation


def all_to_all(operation: Operation) -> list[Message]:
    """One message for each ordered pair, none waits for another; the own block stays where it is."""
    pairs = ((i, (i + k) % operation.size) for i in range(operation.size) for k in range(1, operation.size))
    return [Message(n, i, j, operation.matrix[i][j], j, ()) for n, (i, j) in enumerate(pairs)]


def send(operation: Operation) -> list[Message]:
    """One message from participant 0 to participant 1."""
    return [Message(0, 0, 1, operation.blocks[0], 0, ())]
