"""Traffic against load: placements under several caps on the busiest rank, each begun from one that is there already.

Shape legend: L MoE layers, E experts per layer.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint, evaluate
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.solver.descent import Annealing
from moe.placement.solver.enumeration import cheapest_paths, cheapest_within
from moe.placement.solver.load_limits import keeps, load_limits, start_within
from moe.placement.solver.solve import choose_solver
from moe.placement.solver.swaps import search_layers
from moe.placement.topology import Topology

CAPS = (None, 1.3, 1.2, 1.1, 1.05)
_LEAST_STEPS, _MOST_STEPS = 50, 128
_MOST_COHERENT = 10**8  # visits of coherent dispatch times experts, up to which the curve takes seconds
_COHERENT_WORK = 3 * 10**7  # a tenth of what the search itself may take


def trade_off(
    statistics: RoutingStatistics,
    topology: Topology,
    placement: Placement,
    *,
    seed: int,
    caps: Sequence[float | None] = CAPS,
) -> list[tuple[float | None, Evaluation]]:
    """Place under every cap: exactly where balanced assignments are few, else by a search from cap to cap.

    The search begins with the placement, which has no replicas and whose cap is one of the points. What is found under
    one cap also stands for looser ones where nothing cheaper is found, so that the cost never rises with the cap. A cap
    that a layer cannot keep is raised in that layer alone. In coherent dispatch, whose layers hang together, large
    traces would take minutes: for them there are no points.

    Returns cap and traffic of each placement, from no cap to the tightest.
    """
    visits = 0 if statistics.visits is None else len(statistics.visits.rows)
    if placement.dispatch == "coherent" and visits * statistics.num_experts > _MOST_COHERENT:
        return []
    own = None if placement.load is None else placement.load.max_load
    loosest_first = sorted({*caps, own}, key=lambda cap: -np.inf if cap is None else -cap)
    limits = {cap: _limits(statistics, topology, cap) for cap in loosest_first}
    if choose_solver(statistics, topology, placement.dispatch, capped=True) in ("viterbi", "enumeration"):
        by_cap = _exact(statistics, topology, placement.dispatch, limits)
        by_cap[own] = placement.expert_ranks()
    else:
        by_cap = {own: placement.expert_ranks()}
        place = loosest_first.index(own)
        for nearest, cap in (*pairwise(loosest_first[place:]), *pairwise(loosest_first[place::-1])):
            by_cap[cap] = _improved(statistics, topology, placement.dispatch, by_cap[nearest], limits[cap], seed)
    traffic = {cap: evaluate(statistics, topology, ranks, placement.dispatch) for cap, ranks in by_cap.items()}
    for tighter, cap in pairwise(loosest_first[::-1]):
        if cap != own and traffic[tighter].cost < traffic[cap].cost:
            traffic[cap] = traffic[tighter]
    return [(cap, traffic[cap]) for cap in loosest_first]


def tradeoff_points(placements: Sequence[tuple[float | None, Evaluation]]) -> tuple[TradeoffPoint, ...]:
    """Read the points of the curve off the result of `trade_off`."""
    return tuple(TradeoffPoint.of(cap, traffic) for cap, traffic in placements)


def _limits(statistics: RoutingStatistics, topology: Topology, cap: float | None) -> NDArray[np.float64] | None:
    return None if cap is None else load_limits(statistics, topology.num_ranks, cap, strict=False)


def _exact(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    limits: dict[float | None, NDArray[np.float64] | None],
) -> dict[float | None, NDArray[np.int64]]:
    """The cheapest placement within each of the limits, [L, E]."""
    if dispatch == "coherent":
        answers = cheapest_paths(statistics, topology.cost, list(limits.values()))
    else:
        answers = cheapest_within(statistics, topology, dispatch, list(limits.values()))
    return {cap: ranks for cap, (ranks, _) in zip(limits, answers, strict=True)}


def _improved(
    statistics: RoutingStatistics,
    topology: Topology,
    dispatch: Dispatch,
    start: NDArray[np.int64],
    limits: NDArray[np.float64] | None,
    seed: int,
) -> NDArray[np.int64]:
    """A placement within the limits, [L, E], from one that may break them."""
    if dispatch != "coherent":
        steps = min(max(statistics.num_experts, _LEAST_STEPS), _MOST_STEPS)
        return search_layers(statistics, topology, dispatch, seed=seed, limits=limits, start=start, steps=steps)
    ranks = start.copy()
    if limits is not None:
        fallback = start_within(statistics.loads, topology.num_ranks, limits)
        for layer, limit in enumerate(limits):
            if not keeps(ranks[layer], statistics.loads[layer], limit, topology.num_ranks):
                ranks[layer] = fallback[layer]
    annealing = Annealing(statistics, topology, limits)
    return annealing.search(ranks, work=_COHERENT_WORK, generator=np.random.default_rng(seed))
