"""What a placement costs: one function for each dispatch mode, from counts alone.

Counts make the cost of any number of tokens a few matrix products, with the same value as a walk over the tokens.
Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moe.placement.placement import Dispatch
from moe.placement.statistics import RoutingStatistics


class Objective(Protocol):
    """Cost of a placement in one dispatch mode."""

    def __call__(
        self, statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], cost: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Price the traffic of every layer.

        Args:
            statistics: Counts of the routing trace.
            expert_ranks: Rank of each expert, [L, E].
            cost: Cost of moving one token between ranks, [G, G]. A 0/1 matrix counts the moves of one kind.

        Returns:
            Cost of all tokens by layer, [L].
        """
        ...


def coherent_cost(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], cost: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Context-coherent dispatch: a token stays where its expert is and moves on from there (ExFlow's objective).

    A move is priced under the layer where it arrives, so layer 0 costs nothing. Only anchors move a token; copies
    for the other choices of a top-k router are not counted.
    """
    layers = np.zeros(statistics.num_layers)
    for gap, tokens in enumerate(statistics.transitions):
        layers[gap + 1] = (tokens * cost[np.ix_(expert_ranks[gap], expert_ranks[gap + 1])]).sum()
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps.T
    prices = cost[expert_ranks[from_layer, from_expert], expert_ranks[to_layer, to_expert]]
    np.add.at(layers, to_layer, tokens * prices)
    return layers


def home_cost(
    statistics: RoutingStatistics, expert_ranks: NDArray[np.int64], cost: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Home-return dispatch: every kept choice goes from the token's rank to the expert and back, in every layer."""
    sources = require_sources(statistics)
    there_and_back = cost + cost.T
    return np.array(
        [(tokens * there_and_back[:, ranks]).sum() for tokens, ranks in zip(sources, expert_ranks, strict=True)]
    )


def require_sources(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Source counts of a trace that knows them.

    Args:
        statistics: Counts of the routing trace.

    Returns:
        Source counts, [L, G, E].

    Raises:
        ValueError: The trace does not say on which rank of the group a token was.
    """
    if statistics.source_counts is None:
        raise ValueError(
            "source_rank: the ranks that recorded the trace are no whole number of expert-parallel groups; "
            "choose nodes * ranks_per_node that divides the trace's world_size, or objective coherent"
        )
    return statistics.source_counts


OBJECTIVES: dict[Dispatch, Objective] = {"coherent": coherent_cost, "home": home_cost}
