"""Dissemination barrier whose messages weigh nothing: it costs the wait for the slowest, and no network time."""

from netsim.collective.protocol import Message, Operation


def barrier(operation: Operation) -> list[Message]:
    """ceil(log2(size)) rounds; in round k participant i tells i + 2**k all that it has heard.

    Hensgen, Finkel, Manber: Two algorithms for barrier synchronization, IJPP 1988.
    """
    size = operation.size
    messages: list[Message] = []
    reach = 1
    heard: dict[int, int] = {}
    while reach < size:
        told = {}
        for i in range(size):
            after = (heard[i],) if i in heard else ()
            told[(i + reach) % size] = len(messages)
            messages.append(Message(len(messages), i, (i + reach) % size, 0, 0, after))
        heard = told
        reach *= 2
    return messages
