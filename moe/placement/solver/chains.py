"""The first assignment of a coherent search: the best of several chains of layers, each swept.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.contiguous import contiguous_ranks
from moe.placement.solver.descent import Descent

_RANDOM_CHAINS = 6


def best_sweep(
    descent: Descent, generator: np.random.Generator, start: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Sweep from one assignment and from chains that begin with its first layer, its ranks and experts drawn anew.

    Args:
        descent: The cost to be lowered.
        generator: Draws the first layers of the chains.
        start: An assignment within the limits of the descent, [L, E]; by default the contiguous one.

    Returns:
        The cheapest assignment, [L, E]; never of higher cost than the start.
    """
    if start is None:
        start = contiguous_ranks(descent.num_layers, descent.num_experts, descent.num_ranks)
    starts = [start, descent.chain(start)]
    for _ in range(_RANDOM_CHAINS):
        drawn = start.copy()
        drawn[0] = generator.permutation(start[0])
        starts.append(descent.chain(descent.within_limits(drawn, start)))
    return min((descent.sweep(ranks) for ranks in starts), key=descent.cost)
