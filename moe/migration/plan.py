"""Plans of a migration: a few worthwhile moves from the present placement of a run towards a better one.

Moves come in small exchanges that leave every layer balanced, each with its savings.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.placement import Dispatch
from moe.placement.ranks import relabel
from moe.placement.topology import Topology
from moe.routing_trace import DROPPED


@dataclass(frozen=True)
class Cycle:
    """Experts of one layer that each take the place of the next one; `ranks` is where each of them goes."""

    layer: int
    experts: tuple[int, ...]
    ranks: tuple[int, ...]

    def applied(self, expert_ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ranks [L, E] after the exchange."""
        moved = expert_ranks.copy()
        moved[self.layer, self.experts] = self.ranks
        return moved


class Gains:
    """Saving of an exchange: the traffic that it avoids less the traffic of the move itself.

    Only the tokens of the layer and its neighbours are counted again. Exact but for tokens that skip layers.
    """

    def __init__(
        self, statistics: RoutingStatistics, topology: Topology, objective: Dispatch, expert_tokens: float
    ) -> None:
        """Sorts the counts by layer; moving an expert costs as much as moving `expert_tokens` tokens."""
        self._price, self._topology, self._expert_tokens = OBJECTIVES[objective], topology, expert_tokens
        self._near = [_near(statistics, layer) for layer in range(statistics.num_layers)]

    def __call__(self, cycle: Cycle, expert_ranks: NDArray[np.int64]) -> float:
        """Token costs that an exchange saves from ranks [L, E]; a single expert may leave its layer out of balance."""
        first = max(cycle.layer - 1, 0)
        before = expert_ranks[first : cycle.layer + 2]
        after = cycle.applied(expert_ranks)[first : cycle.layer + 2]
        statistics = _of_experts(self._near[cycle.layer], cycle.experts)
        cost, nodes = self._topology.cost, self._topology.num_nodes
        traffic_before, traffic_after = (self._price(statistics, r, cost, nodes).sum() for r in (before, after))
        effort = cost[expert_ranks[cycle.layer, cycle.experts], cycle.ranks].sum()
        return float(traffic_before - traffic_after - self._expert_tokens * effort)


def cut_into_cycles(present: NDArray[np.int64], goal: NDArray[np.int64], gains: Gains) -> list[Cycle]:
    """Cuts the difference of two balanced placements [L, E] into short exchanges, the experts that save most together.

    The exchanges share no expert; all of them together lead to the goal.
    """
    cycles = []
    for layer in range(len(present)):
        movers = np.flatnonzero(present[layer] != goal[layer]).tolist()
        worth = {expert: gains(Cycle(layer, (expert,), (int(goal[layer, expert]),)), present) for expert in movers}
        movers.sort(key=lambda expert, worth=worth: -worth[expert])
        while movers:
            cycle = _shortest_cycle(movers, present[layer], goal[layer])
            cycles.append(Cycle(layer, cycle, tuple(goal[layer, cycle].tolist())))
            movers = [expert for expert in movers if expert not in cycle]
    return cycles


def best_state(present: NDArray[np.int64], cycles: list[Cycle], gains: Gains, most_moves: int) -> NDArray[np.int64]:
    """Takes exchanges one by one, the best saving per move first, as long as the budget lasts.

    Exchanges that lose are taken too: a layer may have to wait for its neighbours. The best state on the way counts:
    ranks [L, E], those at present if nothing saves.
    """
    best = ranks = present
    best_saving = saving = 0.0
    worth = {cycle: gains(cycle, ranks) for cycle in cycles}
    while fitting := [cycle for cycle in worth if len(cycle.experts) <= most_moves]:
        chosen = max(fitting, key=lambda cycle: worth[cycle] / len(cycle.experts))
        saving += worth.pop(chosen)
        most_moves -= len(chosen.experts)
        ranks = chosen.applied(ranks)
        if saving > best_saving:
            best, best_saving = ranks, saving
        for cycle in worth:
            if abs(cycle.layer - chosen.layer) <= 1:
                worth[cycle] = gains(cycle, ranks)
    return best


def _shortest_cycle(movers: list[int], source: NDArray[np.int64], target: NDArray[np.int64]) -> tuple[int, ...]:
    """The first mover and the fewest others that leave all ranks in balance, earlier ones preferred."""
    first = movers[0]
    paths: dict[int, tuple[int, ...]] = {int(target[first]): (first,)}
    reached = deque(paths)
    while reached:
        rank = reached.popleft()
        for expert in movers:
            if source[expert] == rank and int(target[expert]) not in paths:
                paths[int(target[expert])] = (*paths[rank], expert)
                reached.append(int(target[expert]))
        if int(source[first]) in paths:
            return paths[int(source[first])]
    raise AssertionError("a difference of balanced placements is made of cycles")


def _near(statistics: RoutingStatistics, layer: int) -> RoutingStatistics:
    """Counts of a layer and its neighbours, as a model of at most three layers; choice sets of that layer alone.

    Visits are those of the layer and of the next one, whose copies start from it.
    """
    first, end = max(layer - 1, 0), min(layer + 2, statistics.num_layers)
    inside = (statistics.jumps[:, 0] >= first) & (statistics.jumps[:, 1] < end)
    sources, sets = statistics.source_counts, statistics.choice_sets
    if sets is not None:
        rows = sets.rows[:, 0] == layer
        sets = Tally(sets.rows[rows] - first * (np.arange(sets.rows.shape[1]) == 0), sets.tokens[rows])
    visits = statistics.visits
    if visits is not None:
        reached, left = visits.rows[:, 0], visits.rows[:, 1]
        rows = (reached >= layer) & (reached < end) & ((left >= first) | (left == DROPPED))
        shift = np.where(np.arange(visits.rows.shape[1]) < 2, first, 0)
        moved = visits.rows[rows] - shift
        moved[left[rows] == DROPPED, 1] = DROPPED
        visits = Tally(moved, visits.tokens[rows])
    return replace(
        statistics,
        transitions=statistics.transitions[first : end - 1],
        jumps=statistics.jumps[inside] - [first, first, 0, 0, 0],
        source_counts=None if sources is None else sources[first:end],
        loads=statistics.loads[first:end],
        anchors=statistics.anchors[first:end],
        coactivation=statistics.coactivation[first:end],
        choice_sets=sets,
        visits=visits,
    )


def _of_experts(statistics: RoutingStatistics, experts: tuple[int, ...]) -> RoutingStatistics:
    """The same counts without the choice sets and visits that contain none of the experts."""
    return replace(
        statistics,
        choice_sets=_containing(statistics.choice_sets, experts),
        visits=_containing(statistics.visits, experts),
    )


def _containing(tally: Tally | None, experts: tuple[int, ...]) -> Tally | None:
    if tally is None:
        return None
    rows = np.isin(tally.rows[:, 2:], experts).any(axis=1)
    return Tally(tally.rows[rows], tally.tokens[rows])


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
        """Token costs saved less those of the moves, positive if it pays; an expert costs `expert_tokens` tokens."""
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
        slot_to_expert: Present logical expert of each slot, [L, E].
        target: Rank of each expert in a balanced placement, [L, E].
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

    The other experts share their present places: first as many as possible go to their goal, then as few as possible
    move.
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
