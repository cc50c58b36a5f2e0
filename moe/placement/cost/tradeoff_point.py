"""One point of the curve of traffic against load: what a placement costs under one cap on the busiest rank."""

from dataclasses import dataclass
from typing import Self

from moe.placement.cost.evaluation import Evaluation


@dataclass(frozen=True)
class TradeoffPoint:
    """Traffic and load of the placement that was found under one cap.

    Attributes:
        max_load: Cap on the busiest rank of every layer, as a multiple of the mean load; None for no cap.
        cost: Cost per token, in units of the cost matrix.
        cross_rank: Moves of one token to other ranks in the forward pass, over all layers and exchanges.
        busiest: Load of the busiest rank over the mean load in the worst layer, which is what a cap is about.
    """

    max_load: float | None
    cost: float
    cross_rank: float
    busiest: float

    @classmethod
    def of(cls, max_load: float | None, traffic: Evaluation) -> Self:
        """Read a point off the traffic under a placement.

        Args:
            max_load: Cap that the placement was made under, None for no cap.
            traffic: Its traffic.

        Returns:
            The point.
        """
        return cls(max_load, traffic.cost, traffic.crossings, float(traffic.imbalance.max()))
