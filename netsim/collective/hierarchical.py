"""Hierarchical algorithms: first within each host, then between hosts among participants with the same local index.

Data leaves a host once, spread over all its participants. Both levels use the rings of `netsim.collective.ring`.
"""

from collections import defaultdict
from collections.abc import Sequence

from netsim.collective import ring, two_phase
from netsim.collective.protocol import CollectiveAlgorithm, Message, Operation
from netsim.collective.schedule import Schedule

Blocks = tuple[int, ...]


def reduce_scatter(operation: Operation) -> list[Message]:
    """L participants on each of H hosts: L - 1 rounds within the host, then H - 1 between hosts."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _within(schedule, ring.reduce_scatter, hosts, columns)
    _between(schedule, ring.reduce_scatter, columns)
    return schedule.messages


def all_gather(operation: Operation) -> list[Message]:
    """L participants on each of H hosts: H - 1 rounds between hosts, then L - 1 within the host."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _between(schedule, ring.all_gather, columns)
    _within(schedule, ring.all_gather, hosts, columns)
    return schedule.messages


def all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter within the host, all-reduce between hosts, all-gather within: 2 (L - 1) + 2 (H - 1) rounds."""
    hosts, columns = _hosts_and_columns(operation)
    schedule = Schedule(operation.blocks)
    _within(schedule, ring.reduce_scatter, hosts, columns)
    _between(schedule, ring.all_reduce, columns)
    _within(schedule, ring.all_gather, hosts, columns)
    return schedule.messages


def all_to_all(operation: Operation) -> list[Message]:
    """In two phases with the hosts as rows."""
    hosts, _ = _hosts_and_columns(operation)
    return two_phase.along_rows_and_columns(operation, hosts)


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


def _within(
    schedule: Schedule, algorithm: CollectiveAlgorithm, hosts: Sequence[Blocks], columns: Sequence[Blocks]
) -> None:
    """Runs an algorithm within each host; its block number l stands for all blocks of column l."""
    for members in hosts:
        _embed(schedule, algorithm, members, columns)


def _between(schedule: Schedule, algorithm: CollectiveAlgorithm, columns: Sequence[Blocks]) -> None:
    """Runs an algorithm within each column; each member has its own block."""
    for members in columns:
        _embed(schedule, algorithm, members, [(block,) for block in members])


def _embed(schedule: Schedule, algorithm: CollectiveAlgorithm, members: Sequence[int], parts: Sequence[Blocks]) -> None:
    for message in algorithm(Operation("", len(members), blocks=(0,) * len(members))):
        (part,) = message.blocks
        schedule.send(members[message.src], members[message.dst], parts[part])
