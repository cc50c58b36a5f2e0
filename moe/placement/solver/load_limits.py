"""Limits on the load of the busiest rank: what a cap allows in each layer, the least cap that can be kept, and an
assignment within limits to begin a search with.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts import RoutingStatistics
from moe.placement.placement import slots_per_rank
from moe.placement.ranks import contiguous_ranks
from moe.placement.solver.packing import busiest, pack_layer

_ROUNDING = 1e-9  # of a limit, which is a product of a mean load and a cap
_MOST_NODES = 20_000  # of the tree of an integer programme
_MOST_CELLS = 128  # E * G up to which an integer programme settles the least load


def start_within(loads: NDArray[np.int64], num_ranks: int, limits: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """The contiguous assignment, int64 [L, E], where it keeps the limits [L]; elsewhere one that balances loads.

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
            fitted = _fit(loads[layer], num_ranks, most)
            if fitted is None or not keeps(fitted, loads[layer], most, num_ranks):
                raise ValueError(
                    f"limits: no balanced assignment found that keeps every rank of layer {layer} within {most:g} "
                    "choices; give a higher limit"
                )
            ranks[layer] = fitted
    return ranks


def keeps(ranks: NDArray[np.int64], loads: NDArray[np.int64], limit: float, num_ranks: int) -> bool:
    """Whether no rank of a layer computes more than the limit."""
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


@dataclass(frozen=True, eq=False)
class LeastLoad:
    """Load of the busiest rank in the best balanced assignment found, and a proven lower bound on that load."""

    best: float
    proven: float


def load_limits(
    statistics: RoutingStatistics, num_ranks: int, max_load: float, *, strict: bool = True
) -> NDArray[np.float64]:
    """Most choices that any rank may compute under a cap, float64 [L]; a balanced assignment that keeps them exists.

    Args:
        max_load: The cap, as a multiple of the mean load of a rank; at least 1.
        strict: Refuse a cap that some layer cannot keep; otherwise the limit of such a layer is the least load found.

    Raises:
        ValueError: The cap is below 1, no assignment is known that keeps it (the message says the least one), or the
            experts do not divide among the ranks.
    """
    if not max_load >= 1:
        raise ValueError(f"max_load: {max_load:g} is below 1, the mean load itself; give 1 or more, such as 1.1")
    slots = slots_per_rank(statistics.num_experts, num_ranks)
    means = statistics.loads.sum(axis=1) / num_ranks
    limits = max_load * means * (1 + _ROUNDING)
    beyond: dict[int, LeastLoad] = {}
    for layer, loads in enumerate(statistics.loads):
        if busiest(loads, pack_layer(loads, num_ranks, slots)) > limits[layer]:
            least = least_load(loads, num_ranks)
            if least.best > limits[layer]:
                beyond[layer] = least
    if beyond and strict:
        raise ValueError(_refusal(max_load, beyond, means))
    for layer, least in beyond.items():
        limits[layer] = least.best
    return limits


def least_load(loads: NDArray[np.integer], num_ranks: int) -> LeastLoad:
    """Balance the loads of a layer as well as possible, and bound what is possible.

    Both are equal for few experts and ranks, which an integer programme settles.
    """
    best = busiest(loads, pack_layer(loads, num_ranks, len(loads) // num_ranks))
    proven = _simple_bound(loads, num_ranks)
    if proven < best and loads.size * num_ranks <= _MOST_CELLS:
        better, bound = _partition(loads, num_ranks)
        best, proven = min(best, better), max(proven, bound)
    return LeastLoad(best, proven)


def _simple_bound(loads: NDArray[np.integer], num_ranks: int) -> float:
    """The mean, rounded up; or what some rank must hold: of the (j - 1) G + 1 largest experts it holds j at least."""
    largest = np.sort(loads)[::-1]
    slots = len(loads) // num_ranks
    held = [
        largest[(count - 1) * num_ranks + 1 - count : (count - 1) * num_ranks + 1].sum()
        + largest[len(loads) - (slots - count) :].sum() * (count < slots)
        for count in range(1, slots + 1)
    ]
    return float(max(ceil(loads.sum() / num_ranks), *held))


def _partition(loads: NDArray[np.integer], num_ranks: int) -> tuple[float, float]:
    """Load of the busiest rank of the best balanced assignment that an integer programme finds, and its bound."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, kron

    num_experts = len(loads)
    experts, ranks = np.ones((1, num_experts)), np.ones((1, num_ranks))
    top = csr_array(np.zeros((num_experts, 1)))
    once = hstack([kron(eye_array(num_experts), ranks), top])
    full = hstack([kron(experts, eye_array(num_ranks)), csr_array(np.zeros((num_ranks, 1)))])
    below = hstack([kron(loads[None].astype(np.float64), eye_array(num_ranks)), csr_array(-np.ones((num_ranks, 1)))])
    cost = np.append(np.zeros(num_experts * num_ranks), 1.0)
    answer = milp(
        cost,
        integrality=np.append(np.ones(num_experts * num_ranks), 0),
        bounds=Bounds(0),
        constraints=[
            LinearConstraint(once, 1, 1),
            LinearConstraint(full, num_experts // num_ranks, num_experts // num_ranks),
            LinearConstraint(below, -np.inf, 0),
        ],
        options={"mip_rel_gap": 0.0, "node_limit": _MOST_NODES},
    )
    if answer.x is None:
        return np.inf, 0.0
    chosen = answer.x[:-1].reshape(num_experts, num_ranks).argmax(axis=1)
    best = float(np.bincount(chosen, weights=loads, minlength=num_ranks).max())
    return best, min(float(ceil(answer.mip_dual_bound - 1e-6)), best)


def _refusal(max_load: float, beyond: dict[int, LeastLoad], means: NDArray[np.float64]) -> str:
    layer = max(beyond, key=lambda layer: beyond[layer].best / means[layer])
    best, proven = beyond[layer].best / means[layer], beyond[layer].proven / means[layer]
    known = f"the least possible is {_up(best)}, which is certified"
    if proven < best:
        known = f"the least found is {_up(best)}, and none below {proven:.4f} is possible"
    return (
        f"max_load: no placement is known that keeps {max_load:g} in layer {layer}; {known}; give that or more, or "
        "spread hot experts by --slots-per-rank"
    )


def _up(ratio: float) -> str:
    """The ratio with four digits after the point, rounded up so that the number itself can be kept."""
    return f"{ceil(ratio * 1e4 - 1e-6) / 1e4:.4f}"
