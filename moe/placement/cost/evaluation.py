"""Traffic under a placement, in the numbers that tables and reports show, and predicted times.

Exchanges of tokens are predicted by the alpha-beta model (a latency per message, and bytes over the rate), experts by
the choices of the busiest rank.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, X exchanges of a layer.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import TRAFFIC, Moves, price
from moe.placement.cost.replicas import replicated_moves
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.topology import Topology


def exchange_seconds(sent: NDArray[np.float64], topology: Topology) -> NDArray[np.float64]:
    """Predict exchanges of bytes from rank to rank, [X, L, G, G], each as one all-to-all straight to the ranks: [X, L].

    Every rank has a link of its own to its node and one to the other nodes, in both directions; it starts its G - 1
    messages one after another, and the busiest link of any rank sets the pace. Contention inside the network is
    ignored; netsim simulates it. Needs a topology with rates.
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
    """Predict the computation of the experts forward and backward, [L], which ends when the busiest rank does.

    Every parameter takes two floating-point operations of a choice forward and four backward; a rank makes `flops` a
    second.
    """
    return 6 * expert_parameters * choices.max(axis=1) / flops


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Traffic under one placement in one dispatch mode.

    Attributes:
        expert_ranks: The placement as rank of each expert, [L, E]; of a replicated expert the first rank.
        num_tokens: Tokens of the trace.
        cost_by_layer: Cost per token by layer, [L].
        cross_rank: Share of the moves, copies included, that end on another rank, 0 to 1.
        cross_node: Share of the moves, copies included, that end on another node, 0 to 1.
        rank_loads: Kept choices that each rank computes, [L, G]; with replicas the expected number.
        moves: Tokens that each exchange of a layer takes from rank to rank in the forward pass, [X, L, G, G]. In
            coherent dispatch with several choices they include the copies, unless the counts lack the visits.
        off_node: 1 where two ranks sit on different nodes, [G, G].
    """

    expert_ranks: NDArray[np.int64]
    num_tokens: int
    cost_by_layer: NDArray[np.float64]
    cross_rank: float
    cross_node: float
    rank_loads: NDArray[np.float64]
    moves: Moves
    off_node: NDArray[np.float64]

    @property
    def cost(self) -> float:
        """Cost per token."""
        return float(self.cost_by_layer.sum())

    @property
    def imbalance(self) -> NDArray[np.float64]:
        """Load of the busiest rank over the mean load, by layer, [L]; 1 is perfect balance."""
        return self.rank_loads.max(axis=1) / np.maximum(self.rank_loads.mean(axis=1), 1e-300)

    @property
    def crossings(self) -> float:
        """Moves of one token to other ranks in the forward pass, over all layers and exchanges."""
        return float(self.moves_by_link[:, 1:].sum())

    @property
    def moves_by_link(self) -> NDArray[np.float64]:
        """Moves per token and layer in the forward pass: on the rank, inside the node, between nodes; [L, 3]."""
        moves = self.moves.sum(axis=0) / self.num_tokens
        on_rank = np.eye(moves.shape[1])
        kinds = on_rank, 1 - on_rank - self.off_node, self.off_node
        return np.stack([(moves * kind).sum(axis=(1, 2)) for kind in kinds], axis=1)


def evaluate(
    statistics: RoutingStatistics, topology: Topology, expert_ranks: NDArray[np.int64], dispatch: Dispatch
) -> Evaluation:
    """Measure a placement without replicas, ranks of experts [L, E], on the counts of a trace, its own or another."""
    moves = TRAFFIC[dispatch](statistics, expert_ranks, topology.num_ranks, topology.num_nodes)
    loads = [
        np.bincount(ranks, weights=loads, minlength=topology.num_ranks)
        for ranks, loads in zip(expert_ranks, statistics.loads, strict=True)
    ]
    return _evaluation(statistics, topology, expert_ranks, moves, np.stack(loads).astype(np.float64))


def evaluate_placement(
    statistics: RoutingStatistics,
    topology: Topology,
    placement: Placement,
    dispatch: Dispatch | None = None,
    rule: str = "even",
) -> Evaluation:
    """Measure a placement, with replicas or without; with replicas in coherent dispatch the expected traffic.

    The dispatch mode is by default the one that the placement is made for. `rule`, even or least_loaded, splits the
    choices of a home-return run over replicas.
    """
    dispatch = dispatch or placement.dispatch
    if not placement.has_replicas:
        return evaluate(statistics, topology, placement.expert_ranks(), dispatch)
    holders = placement.holders()
    moves, loads = replicated_moves(statistics, topology, holders, dispatch, rule)
    return _evaluation(statistics, topology, holders.argmax(axis=2), moves, loads)


def _evaluation(
    statistics: RoutingStatistics,
    topology: Topology,
    expert_ranks: NDArray[np.int64],
    moves: Moves,
    loads: NDArray[np.float64],
) -> Evaluation:
    total = max(moves.sum(), 1)
    return Evaluation(
        expert_ranks,
        statistics.num_tokens,
        price(moves, topology.cost) / statistics.num_tokens,
        float((moves * topology.off_rank).sum() / total),
        float((moves * topology.off_node).sum() / total),
        loads,
        moves,
        topology.off_node,
    )


@dataclass(frozen=True)
class TradeoffPoint:
    """Traffic and load of the placement that was found under one cap on the busiest rank of every layer, None for no
    cap.

    Cost and moves to other ranks are those of a token, over all layers and exchanges; the busiest rank is that of the
    worst layer, over its mean, which is what a cap is about.
    """

    max_load: float | None
    cost: float
    cross_rank: float
    busiest: float

    @classmethod
    def of(cls, max_load: float | None, traffic: Evaluation) -> Self:
        """Read a point off the traffic under a placement that was made under a cap, None for no cap."""
        return cls(max_load, traffic.cost, traffic.crossings, float(traffic.imbalance.max()))
