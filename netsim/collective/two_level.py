"""Algorithms in two phases: rows and columns of a grid, hosts and participants of equal local index, or rails.

Hierarchical ones use rings at both levels, so that data leaves a host once, spread over all its participants. Those
along rails go, as NCCL's PXN, through the GPU of the sender's host that sits on the receiver's rail.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import isqrt

from netsim.collective.algorithms import Schedule
from netsim.collective.protocol import Message, Operation

Blocks = tuple[int, ...]
_ADD, _GATHER = -1, 0
"""Offset, from its own part, of the part that a ring member sends first: to add parts up, or to gather them."""


def two_phase_all_to_all(operation: Operation) -> list[Message]:
    """All-to-all in two phases on a grid as near to a square as the size allows; a prime size has one row: direct."""
    size = operation.size
    rows = next(number for number in range(isqrt(size), 0, -1) if size % number == 0)
    width = size // rows
    return along_rows_and_columns(operation, [range(row * width, (row + 1) * width) for row in range(rows)])


def along_rows_and_columns(operation: Operation, rows: Sequence[Sequence[int]]) -> list[Message]:
    """Each participant sends the blocks for a column to the member of its row in that column, which forwards them.

    In R rows of C each participant sends C - 1 messages of R blocks, then, having received those of its row, R - 1 of C
    blocks.
    """
    columns = list(zip(*rows, strict=True))
    matrix = operation.matrix
    messages: list[Message] = []
    come: list[list[int]] = [[] for _ in range(operation.size)]
    for row in rows:
        for i in row:
            for j, column in zip(row, columns, strict=True):
                if i != j:
                    come[j].append(len(messages))
                    size_bytes = sum(matrix[i][end] for end in column)
                    messages.append(Message(len(messages), i, j, size_bytes, column, ()))
    for row in rows:
        for j, column in zip(row, columns, strict=True):
            ready: tuple[int, ...] = ()
            if come[j] and len(column) > 1:
                ready = (len(messages),)
                messages.append(Message(len(messages), j, j, 0, (), tuple(come[j])))
            for end in column:
                if end != j:
                    size_bytes = sum(matrix[i][end] for i in row)
                    messages.append(Message(len(messages), j, end, size_bytes, (end,), ready))
    return messages


def hierarchical_reduce_scatter(operation: Operation) -> list[Message]:
    """L participants on each of H hosts: L - 1 rounds within the host, then H - 1 between hosts."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _within(schedule, hosts, columns, _ADD)
    _between(schedule, columns, _ADD)
    return schedule.messages


def hierarchical_all_gather(operation: Operation) -> list[Message]:
    """L participants on each of H hosts: H - 1 rounds between hosts, then L - 1 within the host."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _between(schedule, columns, _GATHER)
    _within(schedule, hosts, columns, _GATHER)
    return schedule.messages


def hierarchical_all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter within the host, all-reduce between hosts, all-gather within: 2 (L - 1) + 2 (H - 1) rounds."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _within(schedule, hosts, columns, _ADD)
    _between(schedule, columns, _ADD, turns=2)
    _within(schedule, hosts, columns, _GATHER)
    return schedule.messages


def hierarchical_all_to_all(operation: Operation) -> list[Message]:
    """All-to-all in two phases, with the hosts as rows."""
    hosts, _ = _hosts_and_columns(operation)
    return along_rows_and_columns(operation, hosts)


def _hosts_and_columns(operation: Operation) -> tuple[list[Blocks], list[Blocks]]:
    """Participants of each host; then, for each local index, the participants with that index."""
    by_host: dict[int, list[int]] = defaultdict(list)
    for participant, host in enumerate(operation.hosts or range(operation.size)):
        by_host[host].append(participant)
    sizes = {len(members) for members in by_host.values()}
    if len(sizes) > 1:
        problem = f"hosts hold {min(sizes)} to {max(sizes)} participants of the {operation.op}"
        raise ValueError(f"{problem}; fill hosts evenly, or choose an algorithm other than hierarchical")
    hosts = [tuple(members) for members in by_host.values()]
    return hosts, list(zip(*hosts, strict=True))


def _within(schedule: Schedule, hosts: Sequence[Blocks], columns: Sequence[Blocks], first: int) -> None:
    """Adds a ring within each host, whose part l consists of the blocks of column l."""
    for members in hosts:
        _ring(schedule, members, columns, len(members) - 1, first)


def _between(schedule: Schedule, columns: Sequence[Blocks], first: int, turns: int = 1) -> None:
    """Adds `turns` rounds of a ring within each column, in which each member has its own block."""
    for members in columns:
        _ring(schedule, members, [(block,) for block in members], turns * (len(members) - 1), first)


def _ring(schedule: Schedule, members: Blocks, parts: Sequence[Blocks], rounds: int, first: int) -> None:
    """Adds a ring: in each round every member sends the part that it received in the round before."""
    for turn in range(rounds):
        for place, member in enumerate(members):
            following = members[(place + 1) % len(members)]
            schedule.send(member, following, parts[(place + first - turn) % len(members)])


def rails_all_to_all(operation: Operation) -> list[Message]:
    """All-to-all in which a sender off the receiver's rail hands its data to a participant of its host on that rail.

    This relay adds its own data, and sends one message as soon as it has all. So messages between hosts stay on one
    rail. Where a host has no participant on the rail, and within a host, every sender sends directly. Of several
    participants on a rail, receivers take turns.
    """
    hosts, rails = _mapping(operation)
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


def _mapping(operation: Operation) -> tuple[Sequence[int], Sequence[int]]:
    """Host and rail of each participant."""
    hosts = operation.hosts or range(operation.size)
    if operation.rails:
        return hosts, operation.rails
    rails, seen = [], defaultdict[int, int](int)
    for host in hosts:
        rails.append(seen[host])
        seen[host] += 1
    return hosts, rails
