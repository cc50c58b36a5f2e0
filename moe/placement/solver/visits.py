"""Visits of tokens as arrays for the kernels."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts import Tally
from moe.routing_trace import DROPPED


class Visits(NamedTuple):
    """Visits of tokens to the experts of each layer, and the price of a move.

    A token comes from rank s, where its anchor of the layer before was, and ends on rank h of its new anchor. With
    every rank r that holds any of its choices, h included, it exchanges a copy for cost[s, r] + cost[r, h]; that of h
    is the move itself.

    Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, N distinct visits, K choices.

    Attributes:
        experts: Choices of each visit, the anchor first, -1 where there is none, int16 [N, K]; ordered by layer.
        tokens: Tokens of each visit, float64 [N].
        begin: First visit of each layer, int64 [L+1].
        origin_layer: Layer of the anchor that the tokens come from, -1 if they start at their anchor, int64 [N].
        origin: That anchor, int64 [N].
        members: Visits that contain an expert, by layer and expert, int64.
        members_begin: First of them for each layer and expert, int64 [L * E + 1].
        leavers: Visits whose tokens come from an expert, by layer and expert, int64.
        leavers_begin: First of them for each layer and expert, int64 [L * E + 1].
        cost: Cost of moving one token between ranks, float64 [G, G].
        back: The same transposed.
    """

    experts: NDArray[np.int16]
    tokens: NDArray[np.float64]
    begin: NDArray[np.int64]
    origin_layer: NDArray[np.int64]
    origin: NDArray[np.int64]
    members: NDArray[np.int64]
    members_begin: NDArray[np.int64]
    leavers: NDArray[np.int64]
    leavers_begin: NDArray[np.int64]
    cost: NDArray[np.float64]
    back: NDArray[np.float64]

    @classmethod
    def collect(cls, visits: Tally, num_layers: int, num_experts: int, cost: NDArray[np.float64]) -> Self:
        """Lay out rows as in `RoutingStatistics.visits` for the kernels."""
        order = np.argsort(visits.rows[:, 0], kind="stable")
        rows = visits.rows[order]
        layer, origin_layer, origin, experts = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:]
        row, choice = np.nonzero(experts != DROPPED)
        came = np.flatnonzero(origin_layer != DROPPED)
        members, members_begin = _grouped(
            row, layer[row] * num_experts + experts[row, choice], num_layers * num_experts
        )
        leavers, leavers_begin = _grouped(
            came, origin_layer[came] * num_experts + origin[came], num_layers * num_experts
        )
        return cls(
            np.ascontiguousarray(experts, dtype=np.int16),
            visits.tokens[order].astype(np.float64),
            np.searchsorted(layer, np.arange(num_layers + 1)),
            np.ascontiguousarray(origin_layer),
            np.ascontiguousarray(origin),
            members,
            members_begin,
            leavers,
            leavers_begin,
            np.array(cost, dtype=np.float64, order="C"),
            np.array(cost.T, dtype=np.float64, order="C"),
        )


def _grouped(rows: NDArray[np.int64], keys: NDArray[np.int64], num_keys: int) -> tuple[NDArray, NDArray]:
    order = np.argsort(keys, kind="stable")
    return rows[order], np.searchsorted(keys[order], np.arange(num_keys + 1))
