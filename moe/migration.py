"""Which experts move where: from the placement that a run has to a better one, in few moves that pay.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.config import MigrationConfig
from moe.placement.assignment import solve_assignment
from moe.placement.objective import OBJECTIVES
from moe.placement.placement import Dispatch
from moe.placement.protocol import PlacementSolver
from moe.placement.statistics import RoutingStatistics
from moe.placement.sweep import solve_sweep
from moe.placement.topology import Topology

QUICK_SOLVERS: dict[Dispatch, PlacementSolver] = {"coherent": solve_sweep, "home": solve_assignment}
"""What a look compares with: milliseconds each."""


@dataclass(frozen=True)
class Move:
    """One expert that changes its slot.

    Attributes:
        layer: MoE layer.
        expert: Logical expert.
        source: Slot that holds it, counted over the expert-parallel group.
        target: Slot that shall hold it.
    """

    layer: int
    expert: int
    source: int
    target: int


@dataclass(frozen=True, eq=False)
class MigrationPlan:
    """Moves that lead from one placement to another, both balanced.

    Attributes:
        slot_to_expert: Logical expert of each slot afterwards, int64 [L, E].
        moves: What changes its slot, by layer and target.
        saving: What the objective falls by, over the tokens of the statistics.
        effort: Cost of the ways of all moves, in the topology's units.
    """

    slot_to_expert: NDArray[np.int64]
    moves: tuple[Move, ...]
    saving: float
    effort: float


class MigrationTrigger:
    """Looks at the traffic of window after window and says when experts should move, and which.

    The regret of a window is cost(present placement) / cost(placement made for the window) - 1. Experts move if it
    exceeds the threshold in two windows in a row, and then towards the placement that was made for the first of them,
    priced on the second: its gain is on tokens that it has not seen, so chance alone moves nothing. Equal windows
    lead to equal plans, on whatever rank.

    Source: Yao et al., "Exploiting Inter-Layer Expert Affinity for Accelerating Mixture-of-Experts Model Inference",
    2024, section IV, for the objective.

    Attributes:
        regret: Of the last window; None before the first.
        candidate: Rank of each expert in the placement made for the last window, [L, E], if its regret was too large.
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
        self._config, self._topology, self._objective = config, topology, objective
        self._token_bytes, self._expert_bytes = token_bytes, expert_bytes
        self.regret: float | None = None
        self.candidate: NDArray[np.int64] | None = None

    def look(
        self, statistics: RoutingStatistics, steps: int, slot_to_expert: NDArray[np.int64]
    ) -> MigrationPlan | None:
        """Judges one window.

        Args:
            statistics: Counts of the window over all ranks of the run.
            steps: Optimiser steps of the window.
            slot_to_expert: Present logical expert of each slot, [L, E].

        Returns:
            Moves that earn back what they cost within the horizon; None if experts should stay.
        """
        present = ranks_of(slot_to_expert, self._topology.num_ranks)
        fresh = QUICK_SOLVERS[self._objective](statistics, self._topology, seed=0).expert_ranks
        self.regret = _ratio(self._price(statistics, present), self._price(statistics, fresh)) - 1.0
        earlier, self.candidate = self.candidate, fresh if self.regret > self._config.regret else None
        if earlier is None or self.candidate is None:
            return None
        plan = plan_migration(
            statistics,
            self._topology,
            slot_to_expert,
            earlier,
            objective=self._objective,
            most_moves=self._config.most_moves,
            expert_tokens=self._expert_bytes * steps / (self._token_bytes * self._config.horizon),
        )
        if not plan.moves:
            return None
        self.candidate = None
        return plan

    def _price(self, statistics: RoutingStatistics, ranks: NDArray[np.int64]) -> float:
        return float(OBJECTIVES[self._objective](statistics, ranks, self._topology.cost).sum())


def plan_migration(
    statistics: RoutingStatistics,
    topology: Topology,
    slot_to_expert: NDArray[np.int64],
    target: NDArray[np.int64],
    *,
    objective: Dispatch,
    most_moves: int,
    expert_tokens: float,
) -> MigrationPlan:
    """Chooses the moves towards a placement that pay best.

    The ranks of the target are renamed first so that most experts stay, where that costs nothing. What remains is cut
    into cycles, each of which leaves its layer balanced. Cycles are taken one by one, the best value per move first,
    even where one alone loses: a layer may have to wait for its neighbours. The best state on that way is the plan.

    Args:
        statistics: Counts of the traffic.
        topology: Ranks of one expert-parallel group and the cost of a move between them.
        slot_to_expert: Present logical expert of each slot, [L, E].
        target: Rank of each expert in a balanced placement, [L, E].
        objective: Dispatch mode.
        most_moves: Experts that move at most.
        expert_tokens: Tokens of the statistics whose trip is as dear as an expert's: what a move must earn.

    Returns:
        The plan; without moves if none pays.
    """
    present = ranks_of(slot_to_expert, topology.num_ranks)

    def traffic(ranks: NDArray[np.int64]) -> float:
        return float(OBJECTIVES[objective](statistics, ranks, topology.cost).sum())

    def effort(ranks: NDArray[np.int64]) -> float:
        return float(topology.cost[present, ranks].sum())

    def value(ranks: NDArray[np.int64]) -> float:
        return -traffic(ranks) - expert_tokens * effort(ranks)

    renamed = _renamed(present, target, topology)
    goal = renamed if traffic(renamed) <= traffic(target) else target
    ranks = _best_state(present, _cycles(present, goal, value), value, most_moves)
    slots = settle(slot_to_expert, ranks)
    return MigrationPlan(
        slot_to_expert=slots,
        moves=tuple(moves_between(slot_to_expert, slots)),
        saving=traffic(present) - traffic(ranks),
        effort=effort(ranks),
    )


def ranks_of(slot_to_expert: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    """Rank of each expert.

    Args:
        slot_to_expert: Logical expert of each slot, [L, E].
        num_ranks: Ranks G with the same number of slots each.

    Returns:
        Ranks, int64 [L, E].
    """
    return np.argsort(slot_to_expert, axis=1) // (slot_to_expert.shape[1] // num_ranks)


def settle(slot_to_expert: NDArray[np.int64], expert_ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gives every expert a slot on its rank, the one that it has if it stays there.

    Args:
        slot_to_expert: Present logical expert of each slot, [L, E].
        expert_ranks: Balanced ranks to settle on, [L, E].

    Returns:
        Logical expert of each slot, int64 [L, E]; arrivals take the freed slots in ascending order.
    """
    num_layers, num_experts = slot_to_expert.shape
    slots_per_rank = num_experts // (int(expert_ranks.max()) + 1)
    slot_ranks = np.arange(num_experts) // slots_per_rank
    settled = slot_to_expert.copy()
    for layer in range(num_layers):
        leaves = expert_ranks[layer, slot_to_expert[layer]] != slot_ranks
        arrivals = np.sort(slot_to_expert[layer, leaves])
        settled[layer, leaves] = arrivals[np.argsort(expert_ranks[layer, arrivals], kind="stable")]
    return settled


def moves_between(before: NDArray[np.int64], after: NDArray[np.int64]) -> Iterator[Move]:
    """Lists what changes its slot.

    Args:
        before: Logical expert of each slot, [L, E].
        after: The same later, [L, E].

    Yields:
        Moves in the order of layers and targets.
    """
    sources = np.argsort(before, axis=1)
    for layer, target in np.argwhere(before != after).tolist():
        expert = int(after[layer, target])
        yield Move(layer, expert, int(sources[layer, expert]), target)


@dataclass(frozen=True)
class _Cycle:
    """Experts of one layer that each take the place of the next one."""

    layer: int
    experts: tuple[int, ...]
    ranks: tuple[int, ...]

    def applied(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        moved = ranks.copy()
        moved[self.layer, self.experts] = self.ranks
        return moved


def _cycles(
    present: NDArray[np.int64], goal: NDArray[np.int64], value: Callable[[NDArray[np.int64]], float]
) -> list[_Cycle]:
    """Cuts the difference of two balanced placements into short cycles, the experts worth most together."""
    cycles = []
    before = value(present)
    for layer in range(len(present)):
        worth = {}
        for expert in np.flatnonzero(present[layer] != goal[layer]).tolist():
            alone = _Cycle(layer, (expert,), (int(goal[layer, expert]),))
            worth[expert] = value(alone.applied(present)) - before
        movers = sorted(worth, key=lambda expert: -worth[expert])
        while movers:
            cycle = _shortest_cycle(movers, present[layer], goal[layer])
            cycles.append(_Cycle(layer, cycle, tuple(goal[layer, cycle].tolist())))
            movers = [expert for expert in movers if expert not in cycle]
    return cycles


def _shortest_cycle(movers: list[int], source: NDArray[np.int64], target: NDArray[np.int64]) -> tuple[int, ...]:
    """The first mover and the fewest others that bring everyone's rank back into balance, earlier ones preferred."""
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


def _best_state(
    present: NDArray[np.int64],
    cycles: list[_Cycle],
    value: Callable[[NDArray[np.int64]], float],
    most_moves: int,
) -> NDArray[np.int64]:
    """Takes cycles by their value per move as long as the budget lasts; returns the best ranks on the way."""
    best = ranks = present
    best_value = here = value(present)
    gains = {cycle: value(cycle.applied(ranks)) - here for cycle in cycles}
    while fitting := [cycle for cycle in gains if len(cycle.experts) <= most_moves]:
        chosen = max(fitting, key=lambda cycle: gains[cycle] / len(cycle.experts))
        del gains[chosen]
        most_moves -= len(chosen.experts)
        ranks = chosen.applied(ranks)
        here = value(ranks)
        if here > best_value:
            best, best_value = ranks, here
        for cycle in gains:
            if abs(cycle.layer - chosen.layer) <= 1:
                gains[cycle] = value(cycle.applied(ranks)) - here
    return best


def _renamed(present: NDArray[np.int64], target: NDArray[np.int64], topology: Topology) -> NDArray[np.int64]:
    """The target with its nodes, then the ranks of each node, renamed so that most experts stay.

    Where that would change the cost between ranks, the target as it is.
    """
    from scipy.optimize import linear_sum_assignment

    nodes, size = topology.num_nodes, topology.ranks_per_node
    stays = np.zeros((topology.num_ranks, topology.num_ranks))
    np.add.at(stays, (target.ravel(), present.ravel()), 1.0)
    blocks = stays.reshape(nodes, size, nodes, size)
    inside = {
        (old, new): linear_sum_assignment(blocks[old, :, new], maximize=True)[1]
        for old in range(nodes)
        for new in range(nodes)
    }
    kept = [[blocks[old, range(size), new, inside[old, new]].sum() for new in range(nodes)] for old in range(nodes)]
    node_names = linear_sum_assignment(np.array(kept), maximize=True)[1]
    names = np.concatenate([new * size + inside[old, new] for old, new in enumerate(node_names.tolist())])
    same = np.array_equal(topology.cost[np.ix_(names, names)], topology.cost)
    return names[target] if same else target


def _ratio(cost: float, least: float) -> float:
    if not least:
        return float("inf") if cost else 1.0
    return cost / least
