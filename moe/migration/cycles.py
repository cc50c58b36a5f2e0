"""Small exchanges that lead from one balanced placement to another, and the savings of each.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.objective import OBJECTIVES
from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.placement import Dispatch
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
    ways: dict[int, tuple[int, ...]] = {int(target[first]): (first,)}
    reached = deque(ways)
    while reached:
        rank = reached.popleft()
        for expert in movers:
            if source[expert] == rank and int(target[expert]) not in ways:
                ways[int(target[expert])] = (*ways[rank], expert)
                reached.append(int(target[expert]))
        if int(source[first]) in ways:
            return ways[int(source[first])]
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
