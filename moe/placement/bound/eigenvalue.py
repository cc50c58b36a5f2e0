"""A lower bound on the coherent cost by the eigenvalues of all traffic at once, jumps included.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts.layer_counts import layer_blocks
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.topology import Topology

_ROUNDING = 1e-9  # of all tokens, given away so that a rounded eigenvalue leaves the bound valid
_LARGEST = 384  # experts of all layers of a window, beyond two layers
_OPERATIONS = 5e9  # cubes of window sizes, about a second
_MOST_EVALUATIONS = 60


def eigenvalue_bound(statistics: RoutingStatistics, topology: Topology) -> float:
    """Bound the coherent cost of all balanced assignments from below, at a cost that is limited by size.

    A cost matrix is at least a [other rank] + b [other node], with a the least cost between ranks, as far as ranks
    share nodes, and a + b the least between nodes; each part is bounded for itself by `most_staying`. A long chain of
    layers is cut into windows that share their border layers, and jumps out of a window are not counted: they cost at
    least nothing. Problems that would take many seconds get the bound 0.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.

    Returns:
        The bound over all tokens.
    """
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    parts = {count: price for count, price in _levels(topology) if price > 0}
    span = max(_LARGEST // num_experts, 2)
    begins = range(0, num_layers - 1, span - 1)
    operations = len(parts) * len(begins) * (span * num_experts) ** 3
    evaluations = min(int(_OPERATIONS // max(operations, 1)), _MOST_EVALUATIONS)
    if not evaluations:
        return 0.0
    bound = 0.0
    for begin in begins:
        blocks = layer_blocks(statistics, begin, min(begin + span, num_layers))
        one_way = blocks.reshape(blocks.shape[0] * num_experts, -1)
        traffic = one_way + one_way.T
        for count, price in parts.items():
            bound += price * (traffic.sum() / 2 - most_staying(traffic, num_experts, count, evaluations))
    return max(bound, 0.0)


def _levels(topology: Topology) -> list[tuple[int, float]]:
    """Numbers of parts of each layer by level, and the least cost of a move between parts beyond the level before."""
    inter = topology.cost[topology.off_node > 0].min(initial=np.inf)
    intra = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)].min(initial=np.inf)
    lowest = min(intra, inter)
    if lowest == np.inf:
        return []
    return [(topology.num_ranks, lowest), (topology.num_nodes, inter - lowest if inter < np.inf else 0.0)]


def most_staying(traffic: NDArray[np.float64], num_experts: int, parts: int, evaluations: int) -> float:
    """Bound from above the tokens that stay in their part when every layer is divided equally among parts.

    With z_g the 0/1 vector of the experts of part g and A the symmetric traffic, sum_g z_g A z_g / 2 tokens stay. As
    z_g has E / parts ones in every layer, z_g = 1 / parts + y_g with y_g of mean 0 in every layer, and the y_g span
    parts - 1 directions of squared length L E / parts. Since z is 0 or 1, any u may be added to the diagonal and
    sum(u) taken off again, so for all u, with P the projection that takes out the means of the layers,

        2 staying <= sum(A + diag u) / parts - sum(u) + (L E / parts) (sum of the parts - 1 largest eigenvalues of
                     P (A + diag u) P)

    u is chosen by L-BFGS (Donath and Hoffman, IBM J. Res. Dev. 17, 1973, with the projection of Rendl and Wolkowicz,
    Annals of OR 58, 1995).

    Args:
        traffic: Tokens between experts of all layers, symmetric, [L * E, L * E].
        num_experts: Experts E per layer.
        parts: Parts of each layer, a divisor of E.
        evaluations: Sets of eigenvalues to compute.

    Returns:
        The bound, at most all tokens.
    """
    total = traffic.sum() / 2
    if parts == 1 or total == 0:
        return total
    from scipy.linalg import eigh, helmert
    from scipy.optimize import minimize

    size = len(traffic)
    basis = np.kron(np.eye(size // num_experts), helmert(num_experts).T)
    projected = basis.T @ (traffic / total) @ basis
    largest = (len(projected) - parts + 1, len(projected) - 1)
    unit = 2 / size  # of an entry of the diagonal: twice the mean tokens of an expert, all tokens being 1
    best = np.inf

    def twice_staying(entries: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best
        diagonal = unit * entries
        values, vectors = eigh(projected + basis.T @ (diagonal[:, None] * basis), subset_by_index=largest)
        value = (2 + diagonal.sum()) / parts - diagonal.sum() + size / parts * values.sum()
        best = min(best, value)
        return value, unit * (1 / parts - 1 + size / parts * ((basis @ vectors) ** 2).sum(axis=1))

    limits = {"maxfun": evaluations, "maxiter": evaluations}
    minimize(twice_staying, np.zeros(size), jac=True, method="L-BFGS-B", options=limits)
    return float(min(best / 2 + _ROUNDING, 1.0) * total)
