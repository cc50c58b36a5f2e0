"""Plain definitions of algorithms whose messages netsim makes as arrays: a message after the other."""

from collections.abc import Iterator

from netsim.collective.algorithms import Pipeline, Schedule, both_directions, one_tree, teams, two_trees
from netsim.collective.protocol import Message, Operation


def ring_reduce_scatter(operation: Operation) -> list[Message]:
    """size-1 rounds; in round k participant i passes on its partial sum of block i-k-1, block i ends complete at i."""
    return _rounds(operation, operation.size - 1, shift=-1)


def ring_all_gather(operation: Operation) -> list[Message]:
    """size-1 rounds; in round k participant i passes on block i-k."""
    return _rounds(operation, operation.size - 1, shift=0)


def ring_all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter, then all-gather: 2 (size-1) rounds. Round size-1 sends the block that has just been completed."""
    return _rounds(operation, 2 * (operation.size - 1), shift=-1)


def _rounds(operation: Operation, rounds: int, shift: int) -> list[Message]:
    size, blocks = operation.size, [(block,) for block in range(operation.size)]
    messages: list[Message] = []
    for k in range(rounds):
        for i in range(size):
            block = (i + shift - k) % size
            after = ((k - 1) * size + (i - 1) % size,) if k else ()
            messages.append(Message(len(messages), i, (i + 1) % size, operation.blocks[block], blocks[block], after))
    return messages


def direct_all_to_all(operation: Operation) -> list[Message]:
    """One message for each ordered pair; none waits for another, and a participant's own block stays."""
    blocks = [(j,) for j in range(operation.size)]
    return [Message(n, i, j, operation.matrix[i][j], blocks[j], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def direct_reduce_scatter(operation: Operation) -> list[Message]:
    """Every participant sends its part of block j to participant j, which sums the parts."""
    sizes, blocks = operation.blocks, [(j,) for j in range(operation.size)]
    return [Message(n, i, j, sizes[j], blocks[j], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def direct_all_gather(operation: Operation) -> list[Message]:
    """Every participant sends its block to all others."""
    sizes, blocks = operation.blocks, [(j,) for j in range(operation.size)]
    return [Message(n, i, j, sizes[i], blocks[i], ()) for n, (i, j) in enumerate(_pairs(operation.size))]


def direct_all_reduce(operation: Operation) -> list[Message]:
    """Reduce-scatter, then all-gather; participant j sends block j once it has received all parts of it."""
    size, sizes, blocks = operation.size, operation.blocks, [(j,) for j in range(operation.size)]
    if size == 1:
        return []
    parts = direct_reduce_scatter(operation)
    needed: list[list[int]] = [[] for _ in range(size)]
    for message in parts:
        needed[message.dst].append(message.id)
    sums = [Message(len(parts) + j, j, j, 0, (), tuple(needed[j])) for j in range(size)]
    ready = [(message.id,) for message in sums]
    results = enumerate(_pairs(size), start=len(parts) + size)
    return [*parts, *sums, *(Message(n, i, j, sizes[i], blocks[i], ready[i]) for n, (i, j) in results)]


def _pairs(size: int) -> Iterator[tuple[int, int]]:
    """Each participant with all others, its successor first."""
    return ((i, j) for i in range(size) for j in (*range(i + 1, size), *range(i)))


def binary_tree_all_reduce(operation: Operation) -> list[Message]:
    """One tree of height h = floor(log2(size)): k pieces take 2 h + k - 1 rounds; a small vector goes whole, k = 1."""
    return _up_and_down(one_tree(operation))


def double_tree_all_reduce(operation: Operation) -> list[Message]:
    """Two trees, each with half of the vector, so that no participant sends or receives more than twice the vector."""
    return _up_and_down(two_trees(operation))


def _up_and_down(pipelines: list[Pipeline]) -> list[Message]:
    """The messages of each piece, one tree after the other; on every edge a piece follows the piece before it."""
    messages: list[Message] = []
    number = 0
    for tree, cut in pipelines:
        routes, ahead = both_directions(tree), dict[tuple[int, int], tuple[int, ...]]()
        for piece, size_bytes in enumerate(cut, start=number):
            received: dict[int, tuple[int, ...]] = {}
            for src, dst in routes:
                message = len(messages)
                after = ahead.get((src, dst), ()) + received.get(src, ())
                messages.append(Message(message, src, dst, size_bytes, (piece,), after))
                ahead[src, dst] = (message,)
                received[dst] = (*received.get(dst, ()), message)
        number += len(cut)
    return messages


def halving_doubling_reduce_scatter(operation: Operation) -> list[Message]:
    """log2(size) rounds; a power of two of participants moves m (size-1)/size bytes each."""
    schedule = Schedule(operation.blocks)
    _halve(schedule, operation.size)
    for leader, second in _pairs_of_teams(operation.size):
        schedule.send(leader, second, (second,))
    return schedule.messages


def halving_doubling_all_gather(operation: Operation) -> list[Message]:
    """log2(size) rounds; a power of two of participants moves m (size-1)/size bytes each, m being the result."""
    schedule = Schedule(operation.blocks)
    for leader, second in _pairs_of_teams(operation.size):
        schedule.send(second, leader, (second,))
    _double(schedule, operation.size)
    for leader, second in _pairs_of_teams(operation.size):
        schedule.send(leader, second, tuple(block for block in range(operation.size) if block != second))
    return schedule.messages


def halving_doubling_all_reduce(operation: Operation) -> list[Message]:
    """Rabenseifner's: 2 log2(size) rounds; a power of two of participants moves 2 m (size-1)/size bytes each."""
    schedule = Schedule(operation.blocks)
    _halve(schedule, operation.size)
    _double(schedule, operation.size)
    for leader, second in _pairs_of_teams(operation.size):
        schedule.send(leader, second, tuple(range(operation.size)))
    return schedule.messages


def _halve(schedule: Schedule, size: int) -> None:
    """Leaves the sum of a team's blocks with its leader."""
    for leader, second in _pairs_of_teams(size):
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


def _pairs_of_teams(size: int) -> list[tuple[int, int]]:
    """Leader and second of the teams of two."""
    return [(team[0], team[1]) for team in teams(size) if len(team) == 2]
