"""The decision when experts should move.

Shape legend: L MoE layers, E experts per layer.
"""

import numpy as np
from numpy.typing import NDArray

from moe.config import MigrationConfig
from moe.migration.plan import MigrationPlan, plan_migration, priced_plan, ranks_of
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.descent import Descent
from moe.placement.solver.drift import measure_drift
from moe.placement.topology import Topology

_KEPT = 0.5  # of what a plan promised: chance keeps next to nothing of it, and drift nearly all


class MigrationTrigger:
    """Looks at the traffic of window after window and says when experts should move, and which.

    The regret of a window is cost(present placement) / cost(placement made for the window) - 1. Where it exceeds the
    threshold, moves are planned. If it exceeds it again in the next window, the plan is tested on that window, whose
    tokens it was not made from. Experts move if the plan saves enough there to cover its cost, and at least half of the
    saving that it promised; a saving by chance fails this test. Equal windows lead to equal plans on any rank.

    Attributes:
        regret: Regret of the last window; None before the first.
        planned: Plan from the last window: logical expert of each slot [L, E]; None if experts should stay.
        promised: Cost that the plan saves per token of that window.
    """

    def __init__(
        self, config: MigrationConfig, topology: Topology, objective: Dispatch, *, token_bytes: int, expert_bytes: int
    ) -> None:
        """Sets up the trigger.

        Args:
            config: Thresholds.
            topology: Ranks of one expert-parallel group and the cost of a move between them, for tokens and experts.
            objective: Dispatch mode of the run.
            token_bytes: Bytes on the network for each token that the objective counts, over all passes.
            expert_bytes: Bytes of an expert with its optimiser state, over all its copies.
        """
        self._config, self._topology = config, topology
        self._objective: Dispatch = objective
        self._token_bytes, self._expert_bytes = token_bytes, expert_bytes
        self.regret: float | None = None
        self.planned: NDArray[np.int64] | None = None
        self.promised = 0.0

    def look(
        self,
        window: RoutingStatistics,
        steps: float,
        slot_to_expert: NDArray[np.int64],
        fixed: NDArray[np.bool_] | None = None,
    ) -> MigrationPlan | None:
        """Judges one window.

        Args:
            window: Counts over all ranks of the run.
            steps: Optimiser steps whose tokens were counted; a fraction for a sample.
            slot_to_expert: Present logical expert of each slot, [L, E].
            fixed: Experts that must stay, such as those with replicas, [L, E]; None: any may move.

        Returns:
            Moves that earn back what they cost within the horizon; None if experts should stay.
        """
        present = ranks_of(slot_to_expert, self._topology.num_ranks)
        drift = measure_drift(window, self._topology, present, self._objective)
        self.regret = drift.regret
        earlier, self.planned = self.planned, None
        if self.regret <= self._config.regret:
            return None
        expert_tokens = self._expert_bytes * steps / (self._token_bytes * self._config.horizon)
        if earlier is not None:
            plan = priced_plan(window, self._topology, slot_to_expert, earlier, self._objective)
            if plan.worth(expert_tokens) > 0 and plan.saving >= _KEPT * self.promised * window.num_tokens:
                return plan
        plans = [
            plan_migration(
                window,
                self._topology,
                slot_to_expert,
                target,
                objective=self._objective,
                most_moves=self._config.most_moves,
                expert_tokens=expert_tokens,
                fixed=fixed,
            )
            for target in (drift.fresh_ranks, *self._near(window, present))
        ]
        best = max(plans, key=lambda plan: plan.worth(expert_tokens))
        if best.moves:
            self.planned, self.promised = best.slot_to_expert, best.saving / window.num_tokens
        return None

    def _near(self, window: RoutingStatistics, present: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """A locally optimal placement near the present one, which needs few moves."""
        if self._objective != "coherent":
            return []
        return [Descent(window.transitions, window.jumps, self._topology.cost).sweep(present)]
