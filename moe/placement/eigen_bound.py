"""A lower bound on the coherent cost by the eigenvalues of all traffic at once, jumps included.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology

_ROUNDING = 1e-9  # of all tokens, given away so that a rounded eigenvalue leaves the bound valid


def eigenvalue_bound(statistics: RoutingStatistics, topology: Topology, *, evaluations: int) -> float:
    """Bound the coherent cost of all balanced assignments from below.

    A cost matrix is at least a [other rank] + b [other node], with a the least cost between ranks, as far as ranks
    share nodes, and a + b the least between nodes; each part is bounded for itself by `most_staying`.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        evaluations: Sets of eigenvalues to compute for each part, at least 1. More make the bound tighter.

    Returns:
        The bound over all tokens.
    """
    traffic = _traffic(statistics)
    total = traffic.sum() / 2
    inter = topology.cost[topology.off_node > 0].min(initial=np.inf)
    intra = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)].min(initial=np.inf)
    bound = 0.0
    lowest = min(intra, inter)
    if 0 < lowest < np.inf:
        bound += lowest * (total - most_staying(traffic, statistics.num_experts, topology.num_ranks, evaluations))
    if lowest < inter < np.inf:
        staying = most_staying(traffic, statistics.num_experts, topology.num_nodes, evaluations)
        bound += (inter - lowest) * (total - staying)
    return max(bound, 0.0)


def most_staying(traffic: NDArray[np.float64], num_experts: int, parts: int, evaluations: int) -> float:
    """Bound from above the tokens that stay in their part when every layer is divided equally among parts.

    With z_g the 0/1 vector of the experts of part g and A the symmetric traffic, sum_g z_g A z_g / 2 tokens stay. As
    z_g has E / parts ones in every layer, z_g = 1 / parts + y_g with y_g of mean 0 in every layer, and the y_g span
    parts - 1 directions of squared length L E / parts. Since z is 0 or 1, any u may be added to the diagonal and
    sum(u) taken off again, so for all u, with P the projection that takes out the means of the layers,

        2 staying <= sum(A + diag u) / parts - sum(u) + (L E / parts) * (parts - 1 largest eigenvalues of P (A + diag u) P)

    u is chosen by L-BFGS.

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
    num_layers = size // num_experts
    basis = np.kron(np.eye(num_layers), helmert(num_experts).T)
    projected = basis.T @ (traffic / total) @ basis
    last = projected.shape[0] - 1
    best = np.inf

    def twice_staying(diagonal: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best
        values, vectors = eigh(
            projected + basis.T @ (diagonal[:, None] * basis), subset_by_index=(last - parts + 2, last)
        )
        directions = basis @ vectors
        value = (2 + diagonal.sum()) / parts - diagonal.sum() + size / parts * values.sum()
        best = min(best, value)
        return value, 1 / parts - 1 + size / parts * (directions**2).sum(axis=1)

    minimize(
        twice_staying, np.zeros(size), jac=True, method="L-BFGS-B", options={"maxfun": evaluations, "maxiter": evaluations}
    )
    return float(min(best / 2 + _ROUNDING, 1.0) * total)


def _traffic(statistics: RoutingStatistics) -> NDArray[np.float64]:
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    blocks = np.zeros((num_layers, num_experts, num_layers, num_experts))
    for gap, tokens in enumerate(statistics.transitions):
        blocks[gap, :, gap + 1] = tokens
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps.T
    blocks[from_layer, from_expert, to_layer, to_expert] = tokens
    traffic = blocks.reshape(num_layers * num_experts, -1)
    return traffic + traffic.T
