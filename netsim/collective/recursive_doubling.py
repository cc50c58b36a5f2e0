"""All-reduce by exchange of whole vectors with partners at distances 1, 2, 4, ...

Thakur, Rabenseifner, Gropp: Optimization of collective communication operations in MPICH, IJHPCA 2005, section 4.5.
"""

from netsim.collective.protocol import Message, Operation
from netsim.collective.schedule import in_rounds


def all_reduce(operation: Operation) -> list[Message]:
    """log2(size) rounds; for other sizes than powers of two up to two more, to the leaders of teams and back."""
    leaders = [team[0] for team in teams(operation.size)]
    pairs = [(team[0], team[1]) for team in teams(operation.size) if len(team) == 2]
    rounds = [[(second, leader) for leader, second in pairs]]
    reach = 1
    while reach < len(leaders):
        rounds.append([(leader, leaders[i ^ reach]) for i, leader in enumerate(leaders)])
        reach *= 2
    return in_rounds([*rounds, pairs], operation.blocks)


def teams(size: int) -> list[range]:
    """Divides participants into teams, a power of two of them: the first ones of two neighbours, led by the first,
    the others of one.
    """
    number = 1 << (size.bit_length() - 1)
    double = size - number
    return [range(2 * i, 2 * i + 2) for i in range(double)] + [range(i, i + 1) for i in range(2 * double, size)]
