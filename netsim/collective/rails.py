"""All-to-all along rails, as NCCL's PXN: through the GPU of the sender's host that sits on the receiver's rail."""

from collections import defaultdict
from collections.abc import Sequence

from netsim.collective.protocol import Message, Operation


def all_to_all(operation: Operation) -> list[Message]:
    """Whoever is not on a receiver's rail hands what it has for it to a participant of its host that is.

    That one adds its own, and sends all at once as soon as it has all. So messages between hosts stay on one rail.
    Where a host has no participant on the rail, and within a host, everyone sends directly. Of several participants
    on a rail, receivers take turns.
    """
    hosts, rails = _seats(operation)
    members: dict[int, list[int]] = defaultdict(list)
    on_rail: dict[tuple[int, int], list[int]] = defaultdict(list)
    for participant, seat in enumerate(zip(hosts, rails, strict=True)):
        members[seat[0]].append(participant)
        on_rail[seat].append(participant)
    matrix, messages = operation.matrix, list[Message]()
    joint: list[tuple[int, int, int, tuple[int, ...]]] = []
    for dst in range(operation.size):
        for host, senders in members.items():
            relays = on_rail.get((host, rails[dst]), []) if host != hosts[dst] else []
            relay = relays[dst % len(relays)] if relays else dst
            handed: list[int] = []
            for src in senders:
                if src in (relay, dst):
                    continue
                hands_over = relay != dst and rails[src] != rails[dst]
                if hands_over:
                    handed.append(len(messages))
                messages.append(Message(len(messages), src, relay if hands_over else dst, matrix[src][dst], (dst,), ()))
            if relay != dst:
                size_bytes = matrix[relay][dst] + sum(messages[number].bytes for number in handed)
                joint.append((relay, dst, size_bytes, tuple(handed)))
    for relay, dst, size_bytes, handed_over in joint:
        messages.append(Message(len(messages), relay, dst, size_bytes, (dst,), handed_over))
    return messages


def _seats(operation: Operation) -> tuple[Sequence[int], Sequence[int]]:
    """Host and rail of each participant."""
    hosts = operation.hosts or range(operation.size)
    if operation.rails:
        return hosts, operation.rails
    rails, seen = [], defaultdict[int, int](int)
    for host in hosts:
        rails.append(seen[host])
        seen[host] += 1
    return hosts, rails
