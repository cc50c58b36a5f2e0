"""Coherent dispatch with copies: exchanges of experts, at random while that is warm and then only for gain.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.counts.tally import Tally
from moe.placement.topology import Topology

_HEAT = 0.25  # at the start, in moves of all tokens whose anchor is an expert
_TRIES = 8  # proposals an expert and round
_MOST_ROUNDS = 60
_FEWEST_ROUNDS = 6
_MOST_RUNS = 3
_RENAMES = 3  # rounds from one renaming to the next


class Annealing:
    """The coherent cost of a trace with several choices a token, and exchanges of experts that lower it.

    Simulated annealing (Kirkpatrick, Gelatt, Vecchi, Science 220, 1983): an exchange of two experts of a layer that
    costs more is taken with a probability that falls round by round. An exchange that would load a rank beyond its
    limit is never taken.
    """

    def __init__(
        self, statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None = None
    ) -> None:
        """Lays out the visits of a trace.

        Args:
            statistics: Counts of the routing trace; without visits only first choices are priced.
            topology: Ranks and what a move between them costs.
            limits: Most choices that a rank may compute, [L]; None for no limit.
        """
        from moe.placement.solver.compiled import exchanges, visits

        self._exchanges, self._compiled = exchanges, visits
        num_layers, num_experts = statistics.num_layers, statistics.num_experts
        tally = anchor_visits(statistics) if statistics.visits is None else statistics.visits
        self._visits = visits.Visits.collect(tally, num_layers, num_experts, topology.cost)
        self._loads = statistics.loads.astype(np.float64)
        self._limits = np.full(num_layers, np.inf) if limits is None else limits.astype(np.float64)
        pairs = max(topology.num_ranks * (topology.num_ranks - 1), 1)
        self._heat = _HEAT * self._visits.tokens.sum() / statistics.loads.size * topology.cost.sum() / pairs
        self._round = (tally.rows.shape[1] - 3) * int(tally.rows.shape[0]) * (topology.num_ranks + 24)

    def cost(self, ranks: NDArray[np.int64]) -> float:
        """Coherent cost of all tokens under an assignment [L, E]."""
        return self._compiled.visits_cost(self._visits, ranks)

    def descend(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Exchange experts until no exchange gains.

        Args:
            ranks: A balanced assignment within the limits, [L, E].

        Returns:
            Rank of each expert, [L, E]; never of higher cost than the start.
        """
        ranks = ranks.copy()
        self._exchanges.descend(self._visits, ranks, self._loads, self._limits)
        return ranks

    def search(self, ranks: NDArray[np.int64], *, work: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Anneal, then exchange experts until no exchange gains; small problems several times.

        Args:
            ranks: A balanced assignment within the limits, [L, E].
            work: Most work, about the additions of pricing all experts again and again.
            generator: Draws the proposals.

        Returns:
            Rank of each expert, [L, E]; never of higher cost than the start.
        """
        if len(self._visits.cost) == 1:
            return ranks
        affordable = work // max(self._round, 1)
        rounds = int(np.clip(affordable, _FEWEST_ROUNDS, _MOST_ROUNDS))
        runs = int(np.clip(affordable // rounds, 1, _MOST_RUNS))
        return min((ranks, *(self._run(ranks, rounds, generator) for _ in range(runs))), key=self.cost)

    def _run(self, ranks: NDArray[np.int64], rounds: int, generator: np.random.Generator) -> NDArray[np.int64]:
        ranks = ranks.copy()
        tries = _TRIES * ranks.shape[1]
        for turn in range(rounds):
            if turn % _RENAMES == 0:
                ranks = self._renamed(ranks)
            heat, seed = self._heat * (1 - turn / rounds), int(generator.integers(2**32))
            self._exchanges.anneal(self._visits, ranks, self._loads, self._limits, heat, tries, seed)
        return self.descend(self._renamed(ranks))

    def _renamed(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        renamed = ranks.copy()
        self._compiled.rename(self._visits, renamed)
        return min(ranks, renamed, key=self.cost)


def anchor_visits(statistics: RoutingStatistics) -> Tally:
    """Visits of first choices alone.

    Args:
        statistics: Counts of the routing trace.

    Returns:
        Rows as in `RoutingStatistics.visits`, with no other choices.
    """
    gap, one, two = np.nonzero(statistics.transitions)
    near = np.column_stack([gap + 1, gap, one, two])
    far = statistics.jumps[:, [1, 0, 2, 3]]
    tokens = np.concatenate([statistics.transitions[gap, one, two], statistics.jumps[:, 4]])
    return Tally(np.concatenate([near, far]), tokens)
