"""The driver of placement: names the objectives and the solvers, and turns an assignment into a placement file."""

import numpy as np
from numpy.typing import NDArray

from moe.placement.assignment import solve_assignment
from moe.placement.bounds import degree_bound
from moe.placement.contiguous import contiguous_ranks
from moe.placement.objective import OBJECTIVES
from moe.placement.placement import Dispatch, ObjectiveRecord, Placement, SolverRecord, slots_per_rank
from moe.placement.protocol import PlacementSolver
from moe.placement.statistics import RoutingStatistics
from moe.placement.sweep import solve_sweep
from moe.placement.topology import Topology

SOLVERS: dict[Dispatch, dict[str, PlacementSolver]] = {
    "coherent": {"sweep": solve_sweep},
    "home": {"assignment": solve_assignment},
}


def solve(
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    objective: Dispatch,
    solver: str = "auto",
    seed: int = 0,
    trace_sha256: str | None = None,
) -> Placement:
    """Find a placement that is never worse than the contiguous one.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks of one expert-parallel group and what a move between them costs.
        objective: Dispatch mode whose traffic is minimised: coherent or home.
        solver: auto (sweep for coherent, assignment for home), contiguous, or one of these by name.
        seed: Seed of the solver's random draws, at least 0.
        trace_sha256: Hash of the routing trace, to be written into the placement.

    Returns:
        The placement, with its cost, the contiguous cost and a lower bound per token.

    Raises:
        ValueError: An objective or solver does not exist, they do not fit each other, the experts do not divide
            among the ranks, or the trace does not say what the objective needs.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: is not built ({objective}); choose from {', '.join(OBJECTIVES)}")
    if seed < 0:
        raise ValueError(f"seed: must be at least 0 ({seed}); give a whole number from 0 on")
    fitting = SOLVERS[objective]
    if solver == "auto":
        solver = next(iter(fitting))
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    price = OBJECTIVES[objective]
    contiguous_total = float(price(statistics, baseline, topology.cost).sum())
    if solver == "contiguous":
        ranks, bound = baseline, _bound(statistics, topology, objective)
    elif solver in fitting:
        assignment = fitting[solver](statistics, topology, seed=seed)
        ranks, bound = assignment.expert_ranks, assignment.lower_bound
    else:
        choices = ", ".join(["auto", "contiguous", *fitting])
        raise ValueError(f"solver: is not built for objective {objective} ({solver}); choose from {choices}")
    total = float(price(statistics, ranks, topology.cost).sum())
    if total >= contiguous_total:
        ranks, total = baseline, contiguous_total
    bound = min(bound, total)
    return Placement(
        num_layers=statistics.num_layers,
        num_experts=statistics.num_experts,
        num_nodes=topology.num_nodes,
        ranks_per_node=topology.ranks_per_node,
        dispatch=objective,
        rank_experts=_slots(ranks, topology.num_ranks),
        objective=ObjectiveRecord(
            name=objective,
            cost=total / statistics.num_tokens,
            contiguous_cost=contiguous_total / statistics.num_tokens,
            lower_bound=bound / statistics.num_tokens,
            gap=(total - bound) / total if total else 0.0,
        ),
        solver=SolverRecord(name=solver, seed=seed),
        cost_matrix=tuple(map(tuple, topology.cost.tolist())),
        trace_sha256=trace_sha256,
    )


def _bound(statistics: RoutingStatistics, topology: Topology, objective: Dispatch) -> float:
    if objective == "coherent":
        return degree_bound(statistics.transitions, topology.cost)
    return solve_assignment(statistics, topology, seed=0).lower_bound


def _slots(expert_ranks: NDArray[np.int64], num_ranks: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    slots = slots_per_rank(expert_ranks.shape[1], num_ranks)
    layers = np.argsort(expert_ranks, axis=1, kind="stable").reshape(len(expert_ranks), num_ranks, slots)
    return tuple(tuple(map(tuple, layer)) for layer in layers.tolist())
