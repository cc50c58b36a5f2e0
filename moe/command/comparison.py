"""What a new placement is compared with: placements that cost no search, and tokens that the solver did not see."""

from pathlib import Path

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint, evaluate_placement
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.solver.replication import pack
from moe.placement.solver.solve import in_slots
from moe.placement.topology import Topology
from moe.report.context import HeldOut
from moe.routing_trace import RoutingTrace
from netsim.foundation.refusal import Refusal


def compare(
    statistics: RoutingStatistics, topology: Topology, placement: Placement, before: Evaluation, name: str
) -> dict[str, TradeoffPoint]:
    """Place traffic and load of other placements beside those of the new one.

    Args:
        statistics: Counts of the routing trace.
        topology: Ranks and what a move between them costs.
        placement: The new placement.
        before: Traffic under the placement in use.
        name: Name of the placement in use.

    Returns:
        The placement in use, and packing by load with as many slots, by name.
    """
    points = {name: TradeoffPoint.of(None, before)}
    if placement.solver.name != "packing":
        holders = pack(statistics, topology, placement.dispatch, placement.slots_per_rank, seed=placement.solver.seed)
        packed = placement.model_copy(update={"rank_experts": in_slots(holders)})
        points["packing"] = TradeoffPoint.of(None, evaluate_placement(statistics, topology, packed))
    return points


def hold_out(path: Path, topology: Topology, current: Placement, placement: Placement, rule: str) -> HeldOut:
    """Measure a placement on another trace of the same model.

    Args:
        path: The other trace.
        topology: Ranks and what a move between them costs.
        current: The placement in use.
        placement: The new placement.
        rule: How a home-return run splits choices over replicas.

    Returns:
        Its traffic under both placements.

    Raises:
        Refusal: The trace cannot be read, is of another model or lacks what the dispatch mode needs.
    """
    experts = placement.num_experts if path.suffix == ".npy" else None
    trace = RoutingTrace.read(path, experts)
    for field in ("num_layers", "num_experts"):
        present, expected = getattr(trace.header, field), getattr(placement, field)
        if present != expected:
            remedy = "give other tokens of the same model"
            raise Refusal(path, f"header.{field}", f"is {present} but the placed trace has {expected}", remedy)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    try:
        before = evaluate_placement(statistics, topology, current, placement.dispatch, rule)
        return HeldOut(path.name, before, evaluate_placement(statistics, topology, placement, rule=rule))
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        problem, _, remedy = problem.partition("; ")
        raise Refusal(path, field, problem, remedy) from error
