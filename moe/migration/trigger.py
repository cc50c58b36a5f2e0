"""The decision when experts should move: whether the placement still fits the traffic, and what moves would save.

Shape legend: L MoE layers, E experts per layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.config import MigrationConfig
from moe.migration.plan import MigrationPlan, plan_migration, priced_plan, ranks_of
from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.solver.descent import Descent
from moe.placement.solver.kernels import kernels
from moe.placement.solver.solve import SOLVERS
from moe.placement.solver.swaps import search_layers
from moe.placement.topology import Topology

_FAST_SOLVERS: dict[Dispatch, str] = {"coherent": "sweep", "home": "assignment"}
_KEPT = 0.5  # of what a plan promised: chance keeps next to nothing of it, and drift nearly all


@dataclass(frozen=True, eq=False)
class Drift:
    """A placement compared with a fresh one on a window of traffic: costs per token, and ranks [L, E].

    The fresh one is made for the window, or is the present one where that is cheaper.
    """

    current_cost: float
    fresh_cost: float
    fresh_ranks: NDArray[np.int64]

    @property
    def regret(self) -> float:
        """current_cost / fresh_cost - 1, the relative excess cost; infinite if the fresh placement costs nothing."""
        if not self.fresh_cost:
            return 0.0 if not self.current_cost else float("inf")
        return self.current_cost / self.fresh_cost - 1


def measure_drift(
    window: RoutingStatistics,
    topology: Topology,
    current_ranks: NDArray[np.int64],
    objective: Dispatch,
    *,
    seed: int = 0,
) -> Drift:
    """Compare a placement, rank of each expert [L, E], with a fresh one on new traffic; the regret is at least 0."""
    cost = OBJECTIVES[objective]
    if objective in ("copies", "hierarchical"):
        fresh = search_layers(window, topology, objective, seed=seed)
    else:
        fresh = SOLVERS[objective][_FAST_SOLVERS[objective]](window, topology, seed=seed).expert_ranks
    current_total, fresh_total = (
        float(cost(window, ranks, topology.cost, topology.num_nodes).sum()) for ranks in (current_ranks, fresh)
    )
    if fresh_total >= current_total:
        fresh, fresh_total = current_ranks, current_total
    return Drift(current_total / window.num_tokens, fresh_total / window.num_tokens, fresh)


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
        """Sets up the trigger; the topology prices the moves of tokens and of experts.

        A token that the objective counts takes `token_bytes` on the network over all passes, an expert `expert_bytes`
        with its optimiser state, over all its copies. A `Refusal` where the search of the objective is not compiled.
        """
        if objective != "home":
            kernels()
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
        """Judges one window: moves that earn back what they cost within the horizon, or None if experts should stay.

        Args:
            window: Counts over all ranks of the run.
            steps: Optimiser steps whose tokens were counted; a fraction for a sample.
            slot_to_expert: Present logical expert of each slot, [L, E].
            fixed: Experts that must stay, such as those with replicas, [L, E]; None: any may move.
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
