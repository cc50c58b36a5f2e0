"""Plans of a migration: a few worthwhile moves from the present placement of a run towards a better one.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.migration.cycles import Gains, best_state, cut_into_cycles
from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch
from moe.placement.ranks import relabel
from moe.placement.topology import Topology


@dataclass(frozen=True)
class Move:
    """One expert that changes its slot; slots are counted over the expert-parallel group."""

    layer: int
    expert: int
    source: int
    target: int


@dataclass(frozen=True, eq=False)
class MigrationPlan:
    """Moves that lead from one balanced placement to another.

    Attributes:
        slot_to_expert: Logical expert of each slot afterwards, int64 [L, E].
        moves: Experts that change their slot, by layer and target.
        saving: Decrease of the objective, over the tokens of the statistics.
        effort: Transfer cost of all moves, in the topology's units.
    """

    slot_to_expert: NDArray[np.int64]
    moves: tuple[Move, ...]
    saving: float
    effort: float

    def worth(self, expert_tokens: float) -> float:
        """Token costs saved less those of the moves, positive if it pays; an expert costs as much as many tokens."""
        return self.saving - expert_tokens * self.effort


def plan_migration(
    statistics: RoutingStatistics,
    topology: Topology,
    slot_to_expert: NDArray[np.int64],
    target: NDArray[np.int64],
    *,
    objective: Dispatch,
    most_moves: int,
    expert_tokens: float,
    fixed: NDArray[np.bool_] | None = None,
) -> MigrationPlan:
    """Chooses the moves towards a placement that pay best; none if no move pays.

    The ranks of the target are renamed first so that most experts stay, where that costs nothing. What remains is cut
    into exchanges that leave every layer balanced, and the best of them are taken.

    Args:
        statistics: Counts of the traffic.
        topology: Ranks of one expert-parallel group and the cost of a move between them.
        slot_to_expert: Present logical expert of each slot, [L, E].
        target: Rank of each expert in a balanced placement, [L, E].
        objective: Dispatch mode.
        most_moves: Experts that move at most.
        expert_tokens: Number of tokens of the statistics whose transfer costs as much as that of an expert.
        fixed: Experts that must stay, [L, E]; None: any may move.
    """
    present = ranks_of(slot_to_expert, topology.num_ranks)
    renamed = relabel(present, target, topology)
    dearer = _traffic(statistics, topology, renamed, objective) > _traffic(statistics, topology, target, objective)
    goal = target if dearer else renamed
    if fixed is not None:
        goal = _held(present, goal, fixed)
    gains = Gains(statistics, topology, objective, expert_tokens)
    ranks = best_state(present, cut_into_cycles(present, goal, gains), gains, most_moves)
    planned = settle(slot_to_expert, ranks, topology.num_ranks)
    plan = priced_plan(statistics, topology, slot_to_expert, planned, objective)
    return plan if plan.worth(expert_tokens) > 0 else MigrationPlan(slot_to_expert, (), 0.0, 0.0)


def priced_plan(
    statistics: RoutingStatistics,
    topology: Topology,
    slot_to_expert: NDArray[np.int64],
    planned: NDArray[np.int64],
    objective: Dispatch,
) -> MigrationPlan:
    """Saving and effort of the moves from one map of slots [L, E] to another."""
    before, after = (ranks_of(slots, topology.num_ranks) for slots in (slot_to_expert, planned))
    costs = [_traffic(statistics, topology, ranks, objective) for ranks in (before, after)]
    effort = float(topology.cost[before, after].sum())
    return MigrationPlan(planned, tuple(moves_between(slot_to_expert, planned)), costs[0] - costs[1], effort)


def ranks_of(slot_to_expert: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    """Rank of each expert, int64 [L, E], from the expert of each slot; ranks have the same number of slots."""
    return np.argsort(slot_to_expert, axis=1) // (slot_to_expert.shape[1] // num_ranks)


def settle(slot_to_expert: NDArray[np.int64], expert_ranks: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    """Gives every expert a slot on its balanced rank [L, E]: the one that it has if it stays there.

    Arrivals take the freed slots in ascending order. Returns the logical expert of each slot, int64 [L, E].
    """
    num_layers, num_experts = slot_to_expert.shape
    slot_ranks = np.arange(num_experts) // (num_experts // num_ranks)
    settled = slot_to_expert.copy()
    for layer in range(num_layers):
        leaves = expert_ranks[layer, slot_to_expert[layer]] != slot_ranks
        arrivals = np.sort(slot_to_expert[layer, leaves])
        settled[layer, leaves] = arrivals[np.argsort(expert_ranks[layer, arrivals], kind="stable")]
    return settled


def moves_between(before: NDArray[np.int64], after: NDArray[np.int64]) -> Iterator[Move]:
    """Lists the experts that change their slot between two maps [L, E], in the order of layers and targets."""
    sources = np.argsort(before, axis=1)
    for layer, target in np.argwhere(before != after).tolist():
        expert = int(after[layer, target])
        yield Move(layer, expert, int(sources[layer, expert]), target)


def _held(present: NDArray[np.int64], goal: NDArray[np.int64], fixed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The balanced placement nearest to the goal in which some experts are where they are now, [L, E].

    The others share out their present places so that most are where the goal has them, and then most do not move.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    held = present.copy()
    for layer, free in enumerate(~fixed):
        places = present[layer, free]
        wanted, own = (ranks[layer, free][:, None] == places for ranks in (goal, present))
        experts, chosen = linear_sum_assignment(-(len(places) + 1.0) * wanted - own)
        held[layer, np.flatnonzero(free)[experts]] = places[chosen]
    return held


def _traffic(statistics: RoutingStatistics, topology: Topology, ranks: NDArray[np.int64], objective: Dispatch) -> float:
    return float(OBJECTIVES[objective](statistics, ranks, topology.cost, topology.num_nodes).sum())
