"""When experts should move.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.config import MigrationConfig
from moe.migration.plan import MigrationPlan, plan_migration, ranks_of
from moe.placement.descent import Descent
from moe.placement.drift import measure_drift
from moe.placement.placement import Dispatch
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology


class MigrationTrigger:
    """Looks at the traffic of window after window and says when experts should move, and which.

    The regret of a window is cost(present placement) / cost(placement made for the window) - 1. Experts move if it
    exceeds the threshold in two windows in a row, and then towards a placement that was made for the first of them,
    priced on the second: its gain is on tokens that it has not seen, so chance alone moves nothing. Equal windows
    lead to equal plans, on whatever rank.

    Attributes:
        regret: Of the last window; None before the first.
        candidates: Placements made for the last window if its regret was too large, rank of each expert [C, L, E].
    """

    def __init__(
        self, config: MigrationConfig, topology: Topology, objective: Dispatch, *, token_bytes: int, expert_bytes: int
    ) -> None:
        """Prepares to look.

        Args:
            config: Thresholds.
            topology: Ranks of one expert-parallel group and the cost of a move between them, for tokens and experts.
            objective: Dispatch mode of the run.
            token_bytes: Bytes that the network carries for each token that the objective counts, passes included.
            expert_bytes: Bytes of an expert with all that moves along, over all its copies.
        """
        self._config, self._topology = config, topology
        self._objective: Dispatch = objective
        self._token_bytes, self._expert_bytes = token_bytes, expert_bytes
        self.regret: float | None = None
        self.candidates: NDArray[np.int64] | None = None

    def look(self, window: RoutingStatistics, steps: float, slot_to_expert: NDArray[np.int64]) -> MigrationPlan | None:
        """Judges one window.

        Args:
            window: Counts over all ranks of the run.
            steps: Optimiser steps whose tokens were counted; a fraction for a sample.
            slot_to_expert: Present logical expert of each slot, [L, E].

        Returns:
            Moves that earn back what they cost within the horizon; None if experts should stay.
        """
        present = ranks_of(slot_to_expert, self._topology.num_ranks)
        drift = measure_drift(window, self._topology, present, self._objective)
        self.regret = drift.regret
        targets, self.candidates = self.candidates, None
        if self.regret <= self._config.regret:
            return None
        expert_tokens = self._expert_bytes * steps / (self._token_bytes * self._config.horizon)
        plans = [
            plan_migration(
                window,
                self._topology,
                slot_to_expert,
                target,
                objective=self._objective,
                most_moves=self._config.most_moves,
                expert_tokens=expert_tokens,
            )
            for target in ([] if targets is None else targets)
        ]
        best = max(plans, key=lambda plan: plan.saving - expert_tokens * plan.effort, default=None)
        if best is not None and best.moves:
            return best
        self.candidates = np.stack([drift.fresh_ranks, *self._near(window, present)])
        return None

    def _near(self, window: RoutingStatistics, present: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """A placement that is best among its neighbours and not far from here: better when few may move."""
        if self._objective != "coherent":
            return []
        return [Descent(window.transitions, window.jumps, self._topology.cost).sweep(present)]
