"""A balanced assignment within limits on the loads of the ranks, to begin a search with.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.contiguous import contiguous_ranks
from moe.placement.solver.packing import pack_layer

_ROUNDING = 1e-9  # of a limit, which is a product of a mean load and a cap
_MOST_NODES = 20_000


def start_within(loads: NDArray[np.int64], num_ranks: int, limits: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """The contiguous assignment where it keeps the limits; in other layers one that balances the loads.

    Args:
        loads: Choices that each expert computes, [L, E].
        num_ranks: Ranks G, a divisor of E.
        limits: Most choices that a rank may compute, [L]; None for no limit.

    Returns:
        Rank of each expert, int64 [L, E].

    Raises:
        ValueError: The experts do not divide among the ranks, or no assignment is found for some layer.
    """
    num_layers, num_experts = loads.shape
    ranks = contiguous_ranks(num_layers, num_experts, num_ranks)
    if limits is None:
        return ranks
    for layer, most in enumerate(limits):
        if not keeps(ranks[layer], loads[layer], most, num_ranks):
            ranks[layer] = pack_layer(loads[layer], num_ranks, num_experts // num_ranks).argmax(axis=1)
        if not keeps(ranks[layer], loads[layer], most, num_ranks):
            found = _fit(loads[layer], num_ranks, most)
            if found is None or not keeps(found, loads[layer], most, num_ranks):
                raise ValueError(
                    f"limits: no balanced assignment found that keeps every rank of layer {layer} within {most:g} "
                    "choices; give a higher limit"
                )
            ranks[layer] = found
    return ranks


def keeps(ranks: NDArray[np.int64], loads: NDArray[np.int64], limit: float, num_ranks: int) -> bool:
    """Whether no rank of a layer computes more than the limit.

    Args:
        ranks: Rank of each expert, [E].
        loads: Choices that each expert computes, [E].
        limit: Most choices that a rank may compute.
        num_ranks: Ranks G.

    Returns:
        True if the busiest rank is within the limit.
    """
    return bool(np.bincount(ranks, weights=loads, minlength=num_ranks).max() <= limit)


def _fit(loads: NDArray[np.int64], num_ranks: int, limit: float) -> NDArray[np.int64] | None:
    """A balanced assignment of one layer within the limit, [E], by branch and bound (HiGHS), or None."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import eye_array, kron

    num_experts = len(loads)
    once = kron(eye_array(num_experts), np.ones((1, num_ranks)))
    full = kron(np.ones((1, num_experts)), eye_array(num_ranks))
    below = kron(loads[None] / limit, eye_array(num_ranks))
    answer = milp(
        np.zeros(num_experts * num_ranks),
        integrality=np.ones(num_experts * num_ranks),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(full, num_experts // num_ranks, num_experts // num_ranks),
            LinearConstraint(below, -np.inf, 1 + _ROUNDING),
        ],
        options={"node_limit": _MOST_NODES},
    )
    return None if answer.x is None else answer.x.reshape(num_experts, num_ranks).argmax(axis=1)
