"""Tokens between every two layers, transitions and jumps alike, laid out for bounds and programmes.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts.statistics import RoutingStatistics

_MOST_JUMP_COUNTS = 2**23


def layer_pairs(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Tokens between every two layers with direct moves, so that each pair can be bounded separately.

    Args:
        statistics: Counts of the routing trace.

    Returns:
        Counts, [pairs, E, E]: the transitions, then those of `jump_pairs`.
    """
    return np.concatenate([statistics.transitions, jump_pairs(statistics)])


def jump_pairs(statistics: RoutingStatistics) -> NDArray[np.int64]:
    """Tokens that jump between every two layers.

    Args:
        statistics: Counts of the routing trace.

    Returns:
        Counts, [pairs, E, E]; no pairs if they would take too much memory.
    """
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps.T
    kinds, pair = np.unique(from_layer * num_layers + to_layer, return_inverse=True)
    if len(kinds) * num_experts**2 > _MOST_JUMP_COUNTS:
        return np.zeros((0, num_experts, num_experts), np.int64)
    counts = np.zeros((len(kinds), num_experts, num_experts), np.int64)
    counts[pair, from_expert, to_expert] = tokens
    return counts


def layer_blocks(statistics: RoutingStatistics, begin: int, end: int) -> NDArray[np.float64]:
    """Tokens between the experts of all layers in a window, jumps inside it included.

    Args:
        statistics: Counts of the routing trace.
        begin: First layer of the window.
        end: Layer after its last.

    Returns:
        Counts from layer and expert to later layer and expert, [end - begin, E, end - begin, E].
    """
    num_layers, num_experts = end - begin, statistics.num_experts
    blocks = np.zeros((num_layers, num_experts, num_layers, num_experts))
    for layer in range(num_layers - 1):
        blocks[layer, :, layer + 1] = statistics.transitions[begin + layer]
    inside = (statistics.jumps[:, 0] >= begin) & (statistics.jumps[:, 1] < end)
    from_layer, to_layer, from_expert, to_expert, tokens = statistics.jumps[inside].T
    blocks[from_layer - begin, from_expert, to_layer - begin, to_expert] = tokens
    return blocks
