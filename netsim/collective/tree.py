"""Binomial tree, not pipelined: in round k the 2**k participants that hold the message pass it on."""

from netsim.collective.protocol import Message, Operation


def broadcast(operation: Operation) -> list[Message]:
    """ceil(log2(size)) rounds. A participant sends once a round, so its sends wait for one another.

    Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, IJHPCA 2005, section 4.2.
    """
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
