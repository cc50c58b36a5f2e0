"""Predicted times: exchanges of tokens by the alpha-beta model (a latency per message, and bytes over the rate), and
experts by the choices of the busiest rank.

Shape legend: L MoE layers, G ranks of one expert-parallel group, X exchanges of a layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.topology import Topology


def exchange_seconds(sent: NDArray[np.float64], topology: Topology) -> NDArray[np.float64]:
    """Predict the exchanges of tokens, each as one all-to-all whose messages go straight to their ranks.

    Every rank has a link of its own to its node and one to the other nodes, in both directions; it starts its G - 1
    messages one after another, and the busiest link of any rank sets the pace. Contention inside the network is
    ignored; netsim simulates it.

    Args:
        sent: Bytes from rank to rank in each exchange, [X, L, G, G]; the diagonal does not travel.
        topology: Ranks, with the rates of their links.

    Returns:
        Seconds, [X, L].

    Raises:
        ValueError: The topology has no rates.
    """
    rates = topology.rates
    if rates is None:
        raise ValueError("cost: has no rates, which a prediction of times needs; give intra=900Gbps,inter=100Gbps")
    inside = topology.off_rank - topology.off_node
    busiest = np.zeros(sent.shape[:2])
    for kind, rate in ((inside, rates.intra_bps), (topology.off_node, rates.inter_bps)):
        for direction in (2, 3):
            busiest = np.maximum(busiest, 8 * (sent * kind).sum(axis=direction).max(axis=2) / rate)
    return busiest + rates.latency_s * (topology.num_ranks - 1)


def expert_seconds(choices: NDArray[np.float64], expert_parameters: int, flops: float) -> NDArray[np.float64]:
    """Predict the computation of the experts forward and backward, which ends when the busiest rank does.

    Every parameter takes two floating-point operations of a choice forward and four backward.

    Args:
        choices: Choices that each rank computes, [L, G].
        expert_parameters: Parameters of one expert.
        flops: Floating-point operations of a rank in a second.

    Returns:
        Seconds, [L].
    """
    return 6 * expert_parameters * choices.max(axis=1) / flops
