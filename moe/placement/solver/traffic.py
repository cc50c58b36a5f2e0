"""Counts of a routing trace as arrays for the kernels.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, J kinds of jump.
"""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Traffic(NamedTuple):
    """Counts of a routing trace and the price of a move.

    Attributes:
        forward: Tokens from expert i of layer l to expert j of layer l + 1, float [L-1, E, E].
        backward: The same, from j of layer l + 1 to i of layer l, [L-1, E, E].
        departures: Jumps as in `RoutingStatistics` by the layer that they leave, int64 [J, 5].
        departures_begin: First row of `departures` of each layer, int64 [L+1].
        arrivals: The same jumps by the layer that they reach, int64 [J, 5].
        arrivals_begin: First row of `arrivals` of each layer, int64 [L+1].
        cost: Cost of moving one token between ranks, float [G, G].
        loads: Choices that each expert computes, float [L, E].
        limits: Most choices that a rank may compute, float [L]; infinite where there is no limit.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    departures: NDArray[np.int64]
    departures_begin: NDArray[np.int64]
    arrivals: NDArray[np.int64]
    arrivals_begin: NDArray[np.int64]
    cost: NDArray[np.float64]
    loads: NDArray[np.float64]
    limits: NDArray[np.float64]

    @classmethod
    def collect(
        cls,
        transitions: NDArray[np.int64],
        jumps: NDArray[np.int64],
        cost: NDArray[np.float64],
        loads: NDArray[np.integer] | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> Self:
        """Lay out transitions [L-1, E, E] and jumps [J, 5]; loads [L, E] are needed with limits [L]."""
        layers = np.arange(len(transitions) + 2)
        free = loads is None or limits is None
        shape = len(transitions) + 1, transitions.shape[1]
        departures, arrivals = (np.ascontiguousarray(jumps[np.argsort(jumps[:, end], kind="stable")]) for end in (0, 1))
        return cls(
            np.ascontiguousarray(transitions, dtype=np.float64),
            np.ascontiguousarray(transitions.transpose(0, 2, 1), dtype=np.float64),
            departures,
            np.searchsorted(departures[:, 0], layers),
            arrivals,
            np.searchsorted(arrivals[:, 1], layers),
            np.array(cost, dtype=np.float64, order="C"),
            np.zeros(shape) if free else np.ascontiguousarray(loads, dtype=np.float64),
            np.full(shape[0], np.inf) if free else np.ascontiguousarray(limits, dtype=np.float64),
        )
