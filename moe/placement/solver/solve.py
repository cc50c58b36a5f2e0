"""The driver of placement: lists objectives and solvers, and turns the result of a solver into a placement."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from moe.placement.bound.coherent import best_bound
from moe.placement.bound.copies import copies_bound, hierarchical_bound
from moe.placement.cost.evaluation import Evaluation
from moe.placement.cost.objective import OBJECTIVES, price
from moe.placement.cost.replicas import replicated_moves
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, LoadRecord, ObjectiveRecord, Placement, SolverRecord, slots_per_rank
from moe.placement.ranks import contiguous_ranks, relabel
from moe.placement.solver.assignment import solve_assignment
from moe.placement.solver.coherent import solve_pair, solve_sweep
from moe.placement.solver.enumeration import MOST_STATES, num_states, solve_enumeration, solve_viterbi
from moe.placement.solver.load_limits import load_limits
from moe.placement.solver.packing import busiest
from moe.placement.solver.protocol import PlacementSolver
from moe.placement.solver.replication import pack, replicate, replicate_within, replicated_home_bound
from moe.placement.solver.swaps import search_layers, solve_node_swaps, solve_swaps
from moe.placement.topology import Topology

SOLVERS: dict[Dispatch, dict[str, PlacementSolver]] = {
    "coherent": {"sweep": solve_sweep, "pair": solve_pair, "viterbi": solve_viterbi},
    "home": {"assignment": solve_assignment, "enumeration": partial(solve_enumeration, "home")},
    "copies": {"swaps": solve_swaps, "enumeration": partial(solve_enumeration, "copies")},
    "hierarchical": {"swaps": solve_node_swaps, "enumeration": partial(solve_enumeration, "hierarchical")},
}
"""Solvers by dispatch mode; packing and contiguous fit every mode."""
_ROUNDING = 1e-9
_ROOM_FOR_REPLICAS = 2  # how far above the mean a placement may be that replicas even, times what the cap allows


def solve(
    statistics: RoutingStatistics,
    topology: Topology,
    *,
    objective: Dispatch,
    solver: str = "auto",
    seed: int = 0,
    trace_sha256: str | None = None,
    slots: int | None = None,
    max_load: float | None = None,
    strict: bool = True,
    rule: str = "even",
) -> Placement:
    """Find a placement that is never worse than the contiguous one if that keeps the cap, by the solver's objective.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks of one expert-parallel group and what a move between them costs.
        objective: Dispatch mode whose traffic is minimised: coherent, home, copies or hierarchical.
        solver: auto, contiguous, packing (balances the loads and only then looks at the traffic), or a solver of the
            objective by name.
        seed: Seed of the solver's random draws, at least 0.
        trace_sha256: Hash of the routing trace, to be written into the placement.
        slots: Slots of each rank and layer; more than E / G are filled with replicas: packing copies the busiest
            experts, any other solver those whose copies save most traffic.

    Returns:
        The placement, with its cost, the contiguous cost and a lower bound per token (0 where none is known).

    Raises:
        ValueError: An objective or solver does not exist, they do not fit each other, the experts do not divide
            among the ranks, the slots do not suffice, the cap cannot be kept, or the trace does not say what the
            objective needs.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: unknown ({objective}); choose from {', '.join(OBJECTIVES)}")
    if seed < 0:
        raise ValueError(f"seed: must be at least 0 ({seed}); give a whole number of 0 or more")
    fitting = SOLVERS[objective]
    least = slots_per_rank(statistics.num_experts, topology.num_ranks)
    if solver == "auto":
        solver = choose_solver(statistics, topology, objective, capped=max_load is not None)
    if solver not in ("contiguous", "packing", *fitting):
        choices = ", ".join(["auto", "contiguous", *fitting, "packing"])
        raise ValueError(f"solver: unknown for objective {objective} ({solver}); choose from {choices}")
    slots = _checked_slots(slots, least, statistics.num_experts)
    replicated = slots > least
    limits = None
    if max_load is not None:
        limits = load_limits(statistics, topology.num_ranks, max_load, strict=strict and not replicated)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    contiguous_total = _total(statistics, topology, baseline, objective)
    holders, bound = _search(statistics, topology, objective, solver, seed, slots, max_load, limits, rule)
    if not replicated:
        total = _total(statistics, topology, holders.argmax(axis=2), objective)
        plain = _holders(baseline, topology.num_ranks)
        allowed = limits is None or bool((_busiest_loads(statistics, plain) <= limits).all())
        even = solver == "packing" and _more_even(statistics, holders, baseline)
        if total >= contiguous_total and allowed and not even:
            holders, total = plain, contiguous_total
        loads = _busiest_loads(statistics, holders)
    else:
        moves, rank_loads = replicated_moves(statistics, topology, holders, objective, rule)
        total, loads = float(price(moves, topology.cost).sum()), rank_loads.max(axis=1)
    if limits is not None and strict and (loads > limits).any():
        raise ValueError(_overload(statistics, topology.num_ranks, solver, loads, limits))
    relative = loads / np.maximum(statistics.loads.sum(axis=1) / topology.num_ranks, 1e-300)
    bound = min(bound, total)
    return Placement(
        num_layers=statistics.num_layers,
        num_experts=statistics.num_experts,
        num_nodes=topology.num_nodes,
        ranks_per_node=topology.ranks_per_node,
        dispatch=objective,
        rank_experts=in_slots(holders),
        objective=ObjectiveRecord(
            name=objective,
            cost=total / statistics.num_tokens,
            contiguous_cost=contiguous_total / statistics.num_tokens,
            lower_bound=bound / statistics.num_tokens,
            gap=(total - bound) / total if total else 0.0,
        ),
        load=LoadRecord(max_load=max_load, busiest=float(relative.mean()), worst=float(relative.max())),
        solver=SolverRecord(name=solver, seed=seed),
        cost_matrix=tuple(map(tuple, topology.cost.tolist())),
        trace_sha256=trace_sha256,
    )


def choose_solver(
    statistics: RoutingStatistics, topology: Topology, objective: Dispatch, *, capped: bool = False
) -> str:
    """Name the solver that auto stands for: the best one that takes seconds only.

    For coherent dispatch it is viterbi where that is exact, else pair. For home-return dispatch without a cap it is
    assignment, which is exact; else enumeration where balanced assignments are few, and the search of the mode where
    not.
    """
    few = num_states(statistics.num_experts, topology.num_ranks) <= MOST_STATES
    if objective == "coherent":
        return "viterbi" if few and not len(statistics.jumps) else "pair"
    if objective == "home" and not capped:
        return "assignment"
    return "enumeration" if few else next(iter(SOLVERS[objective]))


def keep_near(placement: Placement, current: Placement, statistics: RoutingStatistics, topology: Topology) -> Placement:
    """Rename the ranks of a new placement so that most experts stay where they are now, if that changes no cost.

    A placement with replicas is returned unchanged.
    """
    if placement.has_replicas or current.has_replicas:
        return placement
    ranks = placement.expert_ranks()
    renamed = relabel(current.expert_ranks(), ranks, topology)
    before, after = (_total(statistics, topology, choice, placement.dispatch) for choice in (ranks, renamed))
    if after != before or (renamed == current.expert_ranks()).sum() <= (ranks == current.expert_ranks()).sum():
        return placement
    return placement.model_copy(update={"rank_experts": in_slots(_holders(renamed, topology.num_ranks))})


def keep_current(placement: Placement, current: Placement, now: Evaluation, new: Evaluation) -> Placement | None:
    """Keep the placement in use where a new one saves nothing; `now` and `new` are traffic of the same tokens.

    Returns the placement in use, with its figures; None if the new one costs less, if the one in use loads a rank
    beyond both the cap and the new one (with packing: beyond the new one in any layer), or if their slots differ.
    """
    if current.slots_per_rank != placement.slots_per_rank or placement.solver.name == "contiguous":
        return None
    assert placement.objective is not None
    assert placement.load is not None
    most = max(placement.load.max_load or np.inf, new.imbalance.max()) * (1 + _ROUNDING)
    packed = placement.solver.name == "packing"
    if now.cost > new.cost or now.imbalance.max() > most or (packed and (now.imbalance > new.imbalance).any()):
        return None
    bound = min(placement.objective.lower_bound, now.cost)
    gap = (now.cost - bound) / now.cost if now.cost else 0.0
    return placement.model_copy(
        update={
            "rank_experts": current.rank_experts,
            "objective": placement.objective.model_copy(update={"cost": now.cost, "lower_bound": bound, "gap": gap}),
            "load": LoadRecord(
                max_load=placement.load.max_load,
                busiest=float(now.imbalance.mean()),
                worst=float(now.imbalance.max()),
            ),
        }
    )


def in_slots(holders: NDArray[np.bool_]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Experts of each rank in ascending order, [L][G][S], as a placement file lists them."""
    return tuple(tuple(tuple(np.flatnonzero(rank).tolist()) for rank in layer.T) for layer in holders)


def _search(
    statistics: RoutingStatistics,
    topology: Topology,
    objective: Dispatch,
    solver: str,
    seed: int,
    slots: int,
    max_load: float | None,
    limits: NDArray[np.float64] | None,
    rule: str,
) -> tuple[NDArray[np.bool_], float]:
    replicated = slots * topology.num_ranks > statistics.num_experts
    if solver == "packing":
        holders = pack(statistics, topology, objective, slots, seed=seed)
        bound = 0.0 if replicated else _bound(statistics, topology, objective, limits)
    else:
        ranks = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
        bound = 0.0
        if solver != "contiguous":
            search = SOLVERS[objective][solver]
            within = limits
            if replicated and max_load is not None:
                looser = 1 + _ROOM_FOR_REPLICAS * (max_load - 1)
                within = load_limits(statistics, topology.num_ranks, looser, strict=False)
            if replicated and solver == "swaps":  # whose bound does not hold with replicas
                ranks = search_layers(statistics, topology, objective, seed=seed, limits=within)
            else:
                assignment = search(statistics, topology, seed=seed, limits=within)
                ranks, bound = assignment.expert_ranks, assignment.lower_bound
        elif not replicated:
            bound = _bound(statistics, topology, objective, limits)
        holders = _holders(ranks, topology.num_ranks)
        if replicated and objective == "coherent":
            holders = replicate(statistics, topology, ranks, slots)
        elif replicated:
            holders = replicate_within(statistics, topology, objective, ranks, slots, limits, rule)
    if replicated:
        bound = replicated_home_bound(statistics, topology, slots) if objective == "home" else 0.0
    return holders, bound


def _checked_slots(slots: int | None, least: int, most: int) -> int:
    if slots is None:
        return least
    if not least <= slots <= most:
        raise ValueError(
            f"slots: {slots} slots a rank are not between {least}, which hold every expert once, and {most}, which "
            f"hold every expert on every rank; choose from {least} to {most}"
        )
    return slots


def _bound(
    statistics: RoutingStatistics, topology: Topology, objective: Dispatch, limits: NDArray[np.float64] | None
) -> float:
    if objective == "coherent":
        return best_bound(statistics, topology, limits)
    if objective == "home":
        return solve_assignment(statistics, topology, seed=0).lower_bound
    bound = copies_bound if objective == "copies" else hierarchical_bound
    return bound(statistics, topology, limits)


def _total(
    statistics: RoutingStatistics, topology: Topology, expert_ranks: NDArray[np.int64], objective: Dispatch
) -> float:
    return float(OBJECTIVES[objective](statistics, expert_ranks, topology.cost, topology.num_nodes).sum())


def _busiest_loads(statistics: RoutingStatistics, holders: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Load of the busiest rank of each layer, [L]."""
    return np.array([busiest(loads, layer) for loads, layer in zip(statistics.loads, holders, strict=True)])


def _overload(
    statistics: RoutingStatistics, num_ranks: int, solver: str, loads: NDArray[np.float64], limits: NDArray[np.float64]
) -> str:
    relative = loads / np.maximum(statistics.loads.sum(axis=1) / num_ranks, 1e-300)
    layer = int(np.where(loads > limits, relative, 0).argmax())
    return (
        f"max_load: the {solver} placement loads a rank of layer {layer} with {relative[layer]:.4f} times the mean; "
        f"choose another solver, or a cap of at least that"
    )


def _holders(expert_ranks: NDArray[np.int64], num_ranks: int) -> NDArray[np.bool_]:
    return expert_ranks[:, :, None] == np.arange(num_ranks)


def _more_even(statistics: RoutingStatistics, holders: NDArray[np.bool_], baseline: NDArray[np.int64]) -> bool:
    plain = _holders(baseline, holders.shape[2])
    return any(
        busiest(loads, layer) < busiest(loads, contiguous)
        for loads, layer, contiguous in zip(statistics.loads, holders, plain, strict=True)
    )
