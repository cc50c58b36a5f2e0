"""The balanced assignment of one layer: every rank offers the same number of slots."""

import numpy as np
from numpy.typing import NDArray


def cheapest_ranks(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Assign the experts of one layer to ranks at least cost, exactly.

    Args:
        prices: Cost of putting each expert on each rank, [E, G]; E is a multiple of G.

    Returns:
        Rank of each expert, int64 [E]; E / G experts on every rank.
    """
    from scipy.optimize import linear_sum_assignment

    num_experts, num_ranks = prices.shape
    slots = num_experts // num_ranks
    _, slot = linear_sum_assignment(np.repeat(prices, slots, axis=1))
    return slot // slots
