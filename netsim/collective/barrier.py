"""Dissemination barrier of messages without bytes: ranks wait for the slowest rank, and the network takes no time."""

from netsim.collective.protocol import Message, Operation
from netsim.collective.schedule import in_rounds


def barrier(operation: Operation) -> list[Message]:
    """ceil(log2(size)) rounds; in round k participant i signals participant i + 2**k.

    Hensgen, Finkel, Manber: Two algorithms for barrier synchronization, IJPP 1988.
    """
    size = operation.size
    reaches = (2**k for k in range((size - 1).bit_length()))
    return in_rounds(([(i, (i + reach) % size) for i in range(size)] for reach in reaches), blocks=(0,))
