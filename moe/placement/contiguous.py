"""The baseline: experts in ascending order, the same on every layer."""

import numpy as np
from numpy.typing import NDArray

from moe.placement.placement import slots_per_rank


def contiguous_ranks(num_layers: int, num_experts: int, num_ranks: int) -> NDArray[np.int64]:
    """Rank of each expert where experts 0 to S - 1 sit on rank 0, the next S on rank 1, and so on.

    Args:
        num_layers: MoE layers L.
        num_experts: Experts E per layer, a multiple of num_ranks.
        num_ranks: Ranks of one expert-parallel group.

    Returns:
        Ranks, int64 [L, E].

    Raises:
        ValueError: The experts do not divide among the ranks.
    """
    ranks = np.arange(num_experts) // slots_per_rank(num_experts, num_ranks)
    return np.tile(ranks, (num_layers, 1))
