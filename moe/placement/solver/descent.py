"""Moves that lower the coherent cost of a routing trace, with copies or without, and the counts that they need.

The search solvers share them.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, J kinds of jump.
"""

from itertools import combinations
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from moe.placement.counts import RoutingStatistics, Tally
from moe.placement.solver.kernels import kernels
from moe.placement.solver.load_limits import keeps
from moe.placement.topology import Topology
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


class Traffic(NamedTuple):
    """Counts of a routing trace and the price of a move.

    Attributes:
        forward: Tokens from expert i of layer l to expert j of layer l + 1, float [L-1, E, E].
        backward: The same, from j of layer l + 1 to i of layer l, [L-1, E, E].
        departures: Jumps as in `RoutingStatistics` by the layer that they leave, int64 [J, 5].
        departures_begin: First row of `departures` of each layer, int64 [L+1].
        arrivals: The same jumps by the layer that they reach, int64 [J, 5].
        arrivals_begin: First row of `arrivals` of each layer, int64 [L+1].
        cost: Cost of moving one token between ranks, float [G, G].
        loads: Choices that each expert computes, float [L, E].
        limits: Most choices that a rank may compute, float [L]; infinite where there is no limit.
    """

    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    departures: NDArray[np.int64]
    departures_begin: NDArray[np.int64]
    arrivals: NDArray[np.int64]
    arrivals_begin: NDArray[np.int64]
    cost: NDArray[np.float64]
    loads: NDArray[np.float64]
    limits: NDArray[np.float64]

    @classmethod
    def collect(
        cls,
        transitions: NDArray[np.int64],
        jumps: NDArray[np.int64],
        cost: NDArray[np.float64],
        loads: NDArray[np.integer] | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> Self:
        """Lay out transitions [L-1, E, E] and jumps [J, 5]; loads [L, E] are needed with limits [L]."""
        layers = np.arange(len(transitions) + 2)
        free = loads is None or limits is None
        shape = len(transitions) + 1, transitions.shape[1]
        departures, arrivals = (np.ascontiguousarray(jumps[np.argsort(jumps[:, end], kind="stable")]) for end in (0, 1))
        return cls(
            np.ascontiguousarray(transitions, dtype=np.float64),
            np.ascontiguousarray(transitions.transpose(0, 2, 1), dtype=np.float64),
            departures,
            np.searchsorted(departures[:, 0], layers),
            arrivals,
            np.searchsorted(arrivals[:, 1], layers),
            np.array(cost, dtype=np.float64, order="C"),
            np.zeros(shape) if free else np.ascontiguousarray(loads, dtype=np.float64),
            np.full(shape[0], np.inf) if free else np.ascontiguousarray(limits, dtype=np.float64),
        )


_MOVABLE = 4  # experts of a rank and layer that a re-split may move: 70 ways to divide those of two ranks
_LONGEST_SCRAMBLE = 4
_SCRAMBLED_RANKS = 3
_HEAT = 0.25  # at the start, in moves of all tokens whose anchor is an expert
_TRIES = 8  # proposals an expert and round
_MOST_ROUNDS = 60
_FEWEST_ROUNDS = 6
_MOST_RUNS = 3
_RENAMES = 3  # rounds from one renaming to the next


class Descent:
    """Moves that never raise the coherent cost, and kicks that may.

    A sweep assigns layer after layer at least cost given all others. A re-split divides the experts of two ranks anew
    in all layers at once, exactly if a rank has at most four experts of a layer, otherwise among eight of both.

    Args:
        transitions: Tokens between experts of consecutive layers, [L-1, E, E].
        jumps: From layer, to layer, from expert, to expert, tokens, [J, 5].
        cost: Cost of moving one token between ranks, [G, G].
        loads: Choices that each expert computes, [L, E]; needed with limits.
        limits: Most choices that a rank may compute, [L], which every start keeps and every result; None for no limit.
    """

    def __init__(
        self,
        transitions: NDArray[np.int64],
        jumps: NDArray[np.int64],
        cost: NDArray[np.float64],
        loads: NDArray[np.int64] | None = None,
        limits: NDArray[np.float64] | None = None,
    ) -> None:
        self._kernels = kernels()
        self._traffic = Traffic.collect(transitions, jumps, cost, loads, limits)
        self.num_layers, self.num_experts, self.num_ranks = len(transitions) + 1, transitions.shape[1], len(cost)
        self._states = _divisions(min(self.num_experts // self.num_ranks, _MOVABLE))

    def cost(self, ranks: NDArray[np.int64]) -> float:
        """Coherent cost of all tokens under an assignment [L, E]."""
        return self._kernels.total_cost(self._traffic, ranks)

    def chain(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Assign each layer but the first at least cost given the layers before it; takes and returns ranks [L, E].

        A layer whose best assignment breaks the limit is improved from the given one.
        """
        ranks = ranks.copy()
        self._kernels.chain(self._traffic, ranks)
        return ranks

    def sweep(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Assign layer after layer at least cost given all others, to and fro, until no layer gains; ranks [L, E]."""
        ranks = ranks.copy()
        self._kernels.sweep(self._traffic, ranks)
        return ranks

    def search(
        self, ranks: NDArray[np.int64], *, kicks: int, work: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Sweep and re-split until nothing gains, then kick and do so again, as long as `kicks` and `work` allow.

        Work counts about the additions of re-splits. The generator draws the kicks, and the movable experts where a
        rank has more than can move. The cost never rises.
        """
        best = ranks.copy()
        if self.num_ranks == 1 or self.num_layers == 1:
            return best
        unsettled = (ranks + 1) % self.num_ranks
        work -= self._descend(unsettled, best, work, generator)
        least = self.cost(best)
        while kicks > 0 and work > 0 and least > 0:
            ranks = self.within_limits(kicked(best, self.num_ranks, generator), best)
            work -= self._descend(best, ranks, work, generator)
            kicks -= 1
            cost = self.cost(ranks)
            if cost <= least:
                best, least = ranks, cost
        return best

    def _descend(
        self, settled: NDArray[np.int64], ranks: NDArray[np.int64], work: int, generator: np.random.Generator
    ) -> int:
        """Sweep and re-split from where ranks [L, E] differ from settled ones until nothing gains; returns the work."""
        seed = int(generator.integers(2**32))
        return self._kernels.descend_pairs(self._traffic, settled, ranks, self._states, seed, work)

    def within_limits(self, ranks: NDArray[np.int64], fallback: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first assignment [L, E] where its layers keep their limit; elsewhere the fallback, which keeps all."""
        ranks = ranks.copy()
        for layer, (loads, limit) in enumerate(zip(self._traffic.loads, self._traffic.limits, strict=True)):
            if not keeps(ranks[layer], loads, limit, self.num_ranks):
                ranks[layer] = fallback[layer]
        return ranks


def kicked(ranks: NDArray[np.int64], num_ranks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Disturb a balanced assignment [L, E] of two layers and ranks or more beyond what sweeps and re-splits undo.

    Either a few ranks exchange names from some layer on, or they shuffle their experts in a few layers.
    """
    ranks = ranks.copy()
    chosen = generator.permutation(num_ranks)[:_SCRAMBLED_RANKS]
    if generator.random() < 0.5:
        names = np.arange(num_ranks)
        names[chosen] = np.roll(chosen, 1)
        suffix = ranks[generator.integers(1, len(ranks)) :]
        suffix[:] = names[suffix]
    else:
        first = int(generator.integers(len(ranks)))
        for layer in ranks[first : first + int(generator.integers(1, _LONGEST_SCRAMBLE + 1))]:
            theirs = np.flatnonzero(np.isin(layer, chosen))
            layer[theirs] = layer[generator.permutation(theirs)]
    return ranks


def _divisions(half: int) -> NDArray[np.int64]:
    """All ways to choose half of some experts, in lexicographic order, [ways, half]."""
    return np.array(list(combinations(range(2 * half), half)))


class Annealing:
    """The coherent cost of a trace with several choices a token, and exchanges of experts that lower it.

    Simulated annealing (Kirkpatrick, Gelatt, Vecchi, Science 220, 1983): an exchange of two experts of a layer that
    costs more is taken with a probability that falls round by round. An exchange that would load a rank beyond its
    limit is never taken.
    """

    def __init__(
        self, statistics: RoutingStatistics, topology: Topology, limits: NDArray[np.float64] | None = None
    ) -> None:
        """Lays out the visits of a trace; without visits only first choices are priced."""
        self._kernels = kernels()
        num_layers, num_experts = statistics.num_layers, statistics.num_experts
        tally = anchor_visits(statistics) if statistics.visits is None else statistics.visits
        self._visits = Visits.collect(tally, num_layers, num_experts, topology.cost)
        self._loads = statistics.loads.astype(np.float64)
        self._limits = np.full(num_layers, np.inf) if limits is None else limits.astype(np.float64)
        pairs = max(topology.num_ranks * (topology.num_ranks - 1), 1)
        self._heat = _HEAT * self._visits.tokens.sum() / statistics.loads.size * topology.cost.sum() / pairs
        self._round = (tally.rows.shape[1] - 3) * int(tally.rows.shape[0]) * (topology.num_ranks + 24)

    def cost(self, ranks: NDArray[np.int64]) -> float:
        """Coherent cost of all tokens under an assignment [L, E]."""
        return self._kernels.visits_cost(self._visits, ranks)

    def descend(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Exchange experts until no exchange gains; takes and returns balanced ranks [L, E] within the limits."""
        ranks = ranks.copy()
        self._kernels.descend_exchanges(self._visits, ranks, self._loads, self._limits)
        return ranks

    def search(self, ranks: NDArray[np.int64], *, work: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Anneal, then exchange experts until no exchange gains; small problems several times. The cost never rises.

        `work` counts about the additions of pricing all experts again and again.
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
            self._kernels.anneal(self._visits, ranks, self._loads, self._limits, heat, tries, seed)
        return self.descend(self._renamed(ranks))

    def _renamed(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        renamed = ranks.copy()
        self._kernels.rename(self._visits, renamed)
        return min(ranks, renamed, key=self.cost)


def anchor_visits(statistics: RoutingStatistics) -> Tally:
    """Visits of first choices alone: rows as in `RoutingStatistics.visits`, with no other choices."""
    gap, one, two = np.nonzero(statistics.transitions)
    near = np.column_stack([gap + 1, gap, one, two])
    far = statistics.jumps[:, [1, 0, 2, 3]]
    tokens = np.concatenate([statistics.transitions[gap, one, two], statistics.jumps[:, 4]])
    return Tally(np.concatenate([near, far]), tokens)
