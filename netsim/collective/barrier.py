"""Dissemination barrier whose messages weigh nothing: it costs the wait for the slowest, and no network time."""

from netsim.collective.protocol import Message, Operation


def barrier(operation: Operation) -> list[Message]:
    """ceil(log2(size)) rounds; in round k participant i tells i + 2**k all that it has heard.

    Hensgen, Finkel, Manber: Two algorithms for barrier synchronization, IJPP 1988.
    """
    size = operation.size
    messages: list[Message] = []
    heard: list[tuple[int, ...]] = [()] * size
    reach = 1
    while reach < size:
        for i, after in enumerate(heard.copy()):
            told = (i + reach) % size
            heard[told] = (*heard[told], len(messages))
            messages.append(Message(len(messages), i, told, 0, 0, after))
        reach *= 2
    return messages
