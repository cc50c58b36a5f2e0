"""Which solver serves a coherent problem best within seconds."""

from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology
from moe.placement.viterbi import MOST_STATES, num_states


def coherent_solver(statistics: RoutingStatistics, topology: Topology) -> str:
    """Choose by size: exact where all assignments of a layer can be tried, pair moves elsewhere.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.

    Returns:
        Name of the solver.

    Raises:
        ValueError: The experts do not divide among the ranks.
    """
    exact = num_states(statistics.num_experts, topology.num_ranks) <= MOST_STATES and len(statistics.jumps) == 0
    return "viterbi" if exact else "pair"
