"""Collective algorithms: from an operation to messages."""

from netsim.collective.protocol import CollectiveAlgorithm, Message, Operation

__all__ = ["CollectiveAlgorithm", "Message", "Operation"]
