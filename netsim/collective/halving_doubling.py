"""Exchange with partners at distances that halve, then double; each message carries many blocks.

Reduce-scatter by recursive halving, all-gather by recursive doubling, all-reduce by one after the other. Thakur,
Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, IJHPCA 2005, sections 4.1, 4.4, 4.5.
For other sizes than powers of two, teams of two act as one: the second member sends its input to the leader and gets
the result back, which takes up to two more rounds.
"""

from netsim.collective.protocol import Message, Operation
from netsim.collective.recursive_doubling import teams
from netsim.collective.schedule import Schedule


def reduce_scatter(operation: Operation) -> list[Message]:
    """log2(size) rounds; a power of two of participants moves m (size-1)/size bytes each."""
    schedule = Schedule(operation.blocks)
    _halve(schedule, operation.size)
    for leader, second in _pairs(operation.size):
        schedule.send(leader, second, (second,))
    return schedule.messages


def all_gather(operation: Operation) -> list[Message]:
    """log2(size) rounds; a power of two of participants moves m (size-1)/size bytes each, m being the result."""
    schedule = Schedule(operation.blocks)
    for leader, second in _pairs(operation.size):
        schedule.send(second, leader, (second,))
    _double(schedule, operation.size)
    for leader, second in _pairs(operation.size):
        schedule.send(leader, second, tuple(block for block in range(operation.size) if block != second))
    return schedule.messages


def all_reduce(operation: Operation) -> list[Message]:
    """Rabenseifner's: 2 log2(size) rounds; a power of two of participants moves 2 m (size-1)/size bytes each."""
    schedule = Schedule(operation.blocks)
    _halve(schedule, operation.size)
    _double(schedule, operation.size)
    for leader, second in _pairs(operation.size):
        schedule.send(leader, second, tuple(range(operation.size)))
    return schedule.messages


def _halve(schedule: Schedule, size: int) -> None:
    """Leaves the sum of a team's blocks with its leader."""
    for leader, second in _pairs(size):
        schedule.send(second, leader, tuple(range(size)))
    members = teams(size)
    reach = len(members) // 2
    while reach:
        for i, team in enumerate(members):
            partner = i ^ reach
            schedule.send(team[0], members[partner][0], _blocks(members, partner // reach * reach, reach))
        reach //= 2


def _double(schedule: Schedule, size: int) -> None:
    """Gathers all blocks at the leaders, each of which starts with the blocks of its team."""
    members = teams(size)
    reach = 1
    while reach < len(members):
        for i, team in enumerate(members):
            schedule.send(team[0], members[i ^ reach][0], _blocks(members, i // reach * reach, reach))
        reach *= 2


def _blocks(members: list[range], first: int, number: int) -> tuple[int, ...]:
    """Blocks of `number` teams."""
    return tuple(range(members[first].start, members[first + number - 1].stop))


def _pairs(size: int) -> list[tuple[int, int]]:
    """Leader and second of the teams of two."""
    return [(team[0], team[1]) for team in teams(size) if len(team) == 2]
