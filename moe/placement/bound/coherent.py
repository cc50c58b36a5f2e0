"""Lower bounds on the coherent cost of all balanced assignments: layer by layer, and by the eigenvalues of all traffic.

Shape legend: L MoE layers, E experts per layer, G ranks of one expert-parallel group, S experts of one rank.
"""

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.distinct import Divisions, Relaxation, affordable_rounds, fewest_parts
from moe.placement.counts import RoutingStatistics, layer_blocks, layer_pairs
from moe.placement.topology import Topology

_LARGEST = 256  # experts of all layers of a window, beyond two layers
_OPERATIONS = 2e9  # cubes of window sizes, about a second
_MOST_ROUNDS = 60
_FEWEST_ROUNDS = 6
_ENOUGH_ROUNDS = 16  # for a longer window
_ROUNDS = 10


def eigenvalue_bound(statistics: RoutingStatistics, topology: Topology) -> float:
    """Bound the coherent cost of all balanced assignments from below, at a cost that is limited by size.

    A cost matrix is at least a [other rank] + b [other node], with a the least cost between ranks, as far as ranks
    share nodes, and a + b the least between nodes; each part is bounded for itself by `most_staying`. A long chain of
    layers is cut into windows that share their border layers, and jumps out of a window are not counted: they cost at
    least nothing. Problems that would take many seconds get the bound 0.
    """
    num_layers, num_experts = statistics.num_layers, statistics.num_experts
    prices = {count: price for count, price in levels(topology) if price > 0}
    if not prices or num_layers < 2:
        return 0.0
    span, rounds = 0, 0
    for tried in range(2, max(min(_LARGEST // num_experts, num_layers), 2) + 1):
        windows = len(range(0, num_layers - 1, tried - 1))
        affordable = int(_OPERATIONS // (len(prices) * windows * (tried * num_experts) ** 3))
        if affordable >= _FEWEST_ROUNDS and (affordable >= _ENOUGH_ROUNDS or not span):
            span, rounds = tried, min(affordable, _MOST_ROUNDS)
    if not span:
        return 0.0
    bound = 0.0
    for begin in range(0, num_layers - 1, span - 1):
        blocks = layer_blocks(statistics, begin, min(begin + span, num_layers))
        one_way = blocks.reshape(blocks.shape[0] * num_experts, -1)
        traffic = one_way + one_way.T
        for count, price in prices.items():
            bound += price * (traffic.sum() / 2 - most_staying(traffic, num_experts, count, rounds))
    return max(bound, 0.0)


def levels(topology: Topology) -> list[tuple[int, float]]:
    """Parts of each layer by level (ranks, nodes), and the least cost of a move beyond the level before."""
    inter = topology.cost[topology.off_node > 0].min(initial=np.inf)
    intra = topology.cost[(topology.off_rank > 0) & (topology.off_node == 0)].min(initial=np.inf)
    lowest = min(intra, inter)
    if lowest == np.inf:
        return []
    return [(topology.num_ranks, lowest), (topology.num_nodes, inter - lowest if inter < np.inf else 0.0)]


def most_staying(traffic: NDArray[np.float64], num_experts: int, parts: int, rounds: int) -> float:
    """Bound from above the tokens that stay in their part when every layer is divided equally among parts.

    Args:
        traffic: Tokens between experts of all layers, symmetric, [L * E, L * E].
        num_experts: Experts E per layer.
        parts: Parts of each layer, a divisor of E.
        rounds: Rounds of the relaxation, whose prices a third as many sets of eigenvalues then improve.
    """
    total = float(traffic.sum() / 2)
    if parts == 1 or total == 0:
        return total
    divisions = Divisions(len(traffic) // num_experts, num_experts, parts)
    relaxation = Relaxation(divisions, divisions.mean())
    for _ in range(rounds):
        relaxation.step(traffic)
    return min(divisions.most(traffic, relaxation.multipliers(), rounds // 3 + 1) / 2, total)


def quick_bound(statistics: RoutingStatistics, topology: Topology) -> float:
    """Bound the coherent cost by the degrees of each pair of layers, in milliseconds."""
    return degree_bound(layer_pairs(statistics), topology.cost)


def best_bound(
    statistics: RoutingStatistics,
    topology: Topology,
    limits: NDArray[np.float64] | None = None,
    rounds: int | None = None,
) -> float:
    """Bound the coherent cost by the best of the bounds that are fast enough for the size of the problem.

    `limits` [L] raise the bound of copies, which takes so many `rounds`; by default as many as take some seconds.
    """
    quick = quick_bound(statistics, topology)
    if statistics.visits is None:
        return max(quick, eigenvalue_bound(statistics, topology))
    return max(quick, visits_bound(statistics, topology, limits, rounds))


def visits_bound(
    statistics: RoutingStatistics,
    topology: Topology,
    limits: NDArray[np.float64] | None = None,
    rounds: int | None = None,
) -> float:
    """Bound the cost of moves and copies by the ranks, and by the nodes, that the tokens of each layer visit.

    A token that comes from rank s, ends on rank h and visits the ranks V, h among them, pays cost[s, r] + cost[r, h]
    for each r in V. With a cost of 1 between any two ranks that is 2 (|V| - 1), and 1 more if s is not in V. The
    latter is left out. The same holds for nodes.
    """
    assert statistics.visits is not None
    rows, tokens = statistics.visits.rows, statistics.visits.tokens
    if rounds is None:
        rounds = affordable_rounds(len(rows), rows.shape[1] - 3, statistics.num_layers, statistics.num_experts)
    bound = 0.0
    for parts, price in levels(topology):
        if price > 0 and rounds:
            for layer in range(statistics.num_layers):
                here = rows[:, 0] == layer
                shares = None
                if limits is not None:
                    width = topology.num_ranks // parts
                    shares = statistics.loads[layer] / max(width * float(limits[layer]), 1e-300)
                visited = fewest_parts(
                    rows[here, 3:], tokens[here], statistics.num_experts, parts, rounds, shares=shares
                )
                bound += 2 * price * (visited - tokens[here].sum())
    return bound


def degree_bound(pairs: NDArray[np.int64], cost: NDArray[np.float64]) -> float:
    """Bound the coherent cost of each pair of layers, [gaps, E, E], separately, for any cost matrix.

    Let D[i, j] be the cost between the ranks of expert i and of expert j one layer on. Row i of D holds the costs
    from one rank to every rank, S times each; a column likewise. Let delta_1 <= ... <= delta_E be, place by place,
    the least sorted costs over all rows and columns that can occur. Then at most t entries of any row or column of D
    are below delta_{t+1}, and D >= sum_t (delta_{t+1} - delta_t) [D >= delta_{t+1}]. The tokens on entries below
    delta_{t+1} are at most the heaviest set of pairs with t pairs a row and a column, so
    cost >= sum_t (delta_{t+1} - delta_t) (tokens - heaviest(t)). With one expert a rank and one level of cost this
    is the optimum of each gap, an assignment problem.
    """
    slots = pairs.shape[2] // len(cost)
    nearest = np.minimum(np.sort(cost, axis=1).min(axis=0), np.sort(cost, axis=0).min(axis=1))
    steps = np.diff(nearest)
    bound = 0.0
    for rank in np.flatnonzero(steps):
        degree = (int(rank) + 1) * slots
        bound += steps[rank] * sum(tokens.sum() - heaviest_pairs(tokens, degree) for tokens in pairs)
    return float(bound)


def heaviest_pairs(tokens: NDArray[np.int64], degree: int) -> float:
    """Bound from above the tokens, [E, E], on a set of pairs that has at most `degree` pairs in every row and column.

    Exact for degree 1 (an assignment). Otherwise the dual of the linear programme, which bounds it for any
    multipliers of at least 0, is lowered by turns over rows and columns.
    """
    if degree >= len(tokens):
        return float(tokens.sum())
    if degree == 1:
        from scipy.optimize import linear_sum_assignment

        return float(tokens[linear_sum_assignment(tokens, maximize=True)].sum())
    weights = tokens.astype(np.float64)
    columns = np.zeros(len(weights))
    best = np.inf
    for _ in range(_ROUNDS):
        rows = _threshold(weights - columns, degree)
        best = min(best, _dual(weights, rows, columns, degree))
        columns = _threshold((weights - rows[:, None]).T, degree)
        best = min(best, _dual(weights, rows, columns, degree))
    return best


def _threshold(weights: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    ordered = np.sort(weights, axis=1)
    return np.maximum((ordered[:, -degree] + ordered[:, -degree - 1]) / 2, 0)


def _dual(weights: NDArray[np.float64], rows: NDArray, columns: NDArray, degree: int) -> float:
    excess = np.maximum(weights - rows[:, None] - columns, 0).sum()
    return float(degree * (rows.sum() + columns.sum()) + excess)
