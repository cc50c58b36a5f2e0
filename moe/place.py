"""Place the experts of a recorded run: the objective, the cap on the busiest rank, the search, and its rivals."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from moe.placement.cost.evaluation import (
    Evaluation,
    TradeoffPoint,
    evaluate_placement,
    exchange_seconds,
    expert_seconds,
)
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Dispatch, Placement
from moe.placement.solver.replication import pack
from moe.placement.solver.solve import in_slots, keep_current, keep_near, solve
from moe.placement.solver.tradeoff import trade_off, tradeoff_points
from moe.placement.topology import Topology
from moe.report.context import Context, HeldOut, Simulation, Volume, find_moving, read_current
from moe.routing_trace import RoutingTrace
from netsim.foundation.refusal import Refusal
from netsim.foundation.terminal import Progress

USUAL_CAP = 1.1
_PASSES = 2  # every exchange is repeated by the gradient
_TOLERANCE = 1.000001


@dataclass(frozen=True, eq=False)
class Placed:
    """A placement with what a report shows of it.

    Attributes:
        placement: The best placement, or the one in use where the search improves nothing.
        statistics: Counts of the trace.
        before: Traffic under the placement in use.
        after: Traffic under the placement.
        context: Sizes, moves, rivals and simulations of the report.
        reasons: Why the objective and the cap were chosen, one line each.
    """

    placement: Placement
    statistics: RoutingStatistics
    before: Evaluation
    after: Evaluation
    context: Context
    reasons: tuple[str, ...]


def place(
    source: Path,
    topology: Topology,
    progress: Progress,
    *,
    num_experts: int | None = None,
    objective: str = "auto",
    solver: str = "auto",
    seed: int = 0,
    max_load: float | Literal["auto"] | None = "auto",
    flops: float | None = None,
    slots: int | None = None,
    rule: str = "even",
    current: Path | None = None,
    held_out: Path | None = None,
    expert_parameters: int | None = None,
    simulations: Sequence[Simulation] = (),
) -> Placed:
    """Search a placement, and measure it beside the placement in use and beside packing by load.

    Args:
        source: A routing trace (.npz), or an array of expert ids (.npy).
        topology: Ranks and what a move between them costs.
        progress: Receives the phases.
        num_experts: Experts of a layer, for arrays.
        objective: A dispatch mode, or auto.
        solver: Name of a solver, or auto.
        seed: Of the solver's draws.
        max_load: Cap on the busiest rank's load, times the mean; None for no cap.
        flops: Floating-point operations of a rank in a second, by which an automatic cap is the quickest one.
        slots: Slots of each rank; None: as in `current`, or else without replicas.
        rule: How a run splits tokens over replicas, even or least_loaded.
        current: The placement in use; None: contiguous.
        held_out: Another trace of the same model, on which the result is measured too.
        expert_parameters: Parameters of one expert, to price moves.
        simulations: Results of netsim for the report.

    Raises:
        Refusal: A file cannot be read, or is of another model or group.
        ValueError: An argument is out of range, or the experts cannot be placed so.
    """
    progress.phase("reading the trace")
    trace = RoutingTrace.read(source, num_experts)
    mode, reason = choose_objective(objective, trace, topology.num_ranks)
    volume = Volume.of(trace, topology.num_ranks)
    if flops is not None and None in (topology.rates, expert_parameters, volume.token_bytes):
        raise ValueError(
            "compute: times need rates in --cost, --expert-parameters and a trace with the size of a token; give them, "
            "or leave --compute out"
        )
    searches, automatic = solver not in ("contiguous", "packing"), max_load == "auto"
    cap = (USUAL_CAP if searches else None) if max_load == "auto" else max_load
    progress.phase(f"counting {trace.num_tokens:,} tokens")
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    in_use, name = read_current(current, statistics, topology)
    if slots is None and current is not None:
        slots = in_use.slots_per_rank
    progress.phase(f"placing {statistics.num_experts} experts x {statistics.num_layers} layers ({mode})")
    solved = partial(
        solve,
        statistics,
        topology,
        objective=mode,
        solver=solver,
        seed=seed,
        slots=slots,
        trace_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        strict=not automatic,
        rule=rule,
    )
    placement = solved(max_load=cap)
    curve = []
    if searches and not placement.has_replicas:
        progress.phase("placing under other caps on the busiest rank")
        curve = trade_off(statistics, topology, placement, seed=seed)
    if automatic and flops is not None and curve:
        assert expert_parameters is not None
        quickest = quickest_cap(curve, topology, volume, expert_parameters, flops)
        if quickest != cap:
            cap, placement = quickest, solved(max_load=quickest)
            curve = trade_off(statistics, topology, placement, seed=seed)
    reasons = [f"objective {mode}: {reason}"] if reason else []
    if automatic and searches:
        timed = flops is not None and curve
        by_time = "takes the least predicted time" if timed else "is the usual one; --max-load sets another"
        reasons.append(f"cap on the busiest rank: {'none' if cap is None else f'{cap:g} x mean'}, which {by_time}")
    progress.phase("measuring the placement")
    placement = keep_near(placement, in_use, statistics, topology)
    before = evaluate_placement(statistics, topology, in_use, placement.dispatch, rule)
    after = evaluate_placement(statistics, topology, placement, rule=rule)
    kept = keep_current(placement, in_use, before, after) if current is not None else None
    if kept is not None:
        placement, after = kept, before
    placement = placement.model_copy(update={"dense_layers": trace.header.dense_layers})
    context = Context(
        volume,
        name,
        find_moving(placement, in_use.holders(), name, volume.element_bytes, expert_parameters),
        tuple(simulations),
        tradeoff_points(curve),
        held_out=hold_out(held_out, topology, in_use, placement, rule) if held_out else None,
        compared=compare(statistics, topology, placement, before, name),
        slots=None if current is None else in_use.slots_per_rank,
        kept=kept is not None,
    )
    if cap is not None and (above := int((after.imbalance > cap * _TOLERANCE).sum())):
        reasons.append(f"layers above the cap: {above} of {placement.num_layers}, at most {after.imbalance.max():.2f}")
    return Placed(placement, statistics, before, after, context, tuple(reasons))


def choose_objective(given: str, trace: RoutingTrace, num_ranks: int) -> tuple[Dispatch, str]:
    """Name the dispatch mode whose traffic is minimised.

    Args:
        given: The objective on the command line: auto, or a mode.
        trace: The routing trace.
        num_ranks: Ranks of one expert-parallel group.

    Returns:
        The mode, and why it was chosen; an empty string if it was given.

    Raises:
        ValueError: There is no such mode.
    """
    modes: tuple[Dispatch, ...] = get_args(Dispatch)
    if given != "auto":
        for mode in modes:
            if mode == given:
                return mode, ""
        raise ValueError(f"objective: unknown ({given}); choose from auto, {', '.join(modes)}")
    header = trace.header
    if header.dispatch == "capped":
        return "home", "the run used capped dispatch, which sends the same under any placement"
    if header.dispatch is not None:
        return header.dispatch, "the dispatch mode of the run that recorded the trace"
    if header.world_size % num_ranks:
        return "coherent", "the trace names no dispatch mode and no ranks of its tokens, which the other modes need"
    if header.top_k == 1:
        return "home", "the trace names no dispatch mode; with one choice a token this is what ordinary dispatch sends"
    return "copies", "the trace names no dispatch mode; with several choices most systems send one copy a rank"


def quickest_cap(
    placements: Sequence[tuple[float | None, Evaluation]],
    topology: Topology,
    volume: Volume,
    expert_parameters: int,
    flops: float,
) -> float | None:
    """Choose the cap whose placement ends a micro batch first: exchanges of tokens, and the busiest rank's experts.

    Args:
        placements: Caps, each with the traffic of its placement.
        topology: Ranks, with the rates of their links.
        volume: Bytes of a token and tokens of a step; all tokens of the trace are one micro batch if steps are unknown.
        expert_parameters: Parameters of one expert.
        flops: Floating-point operations of a rank in a second.

    Returns:
        The cap.
    """
    assert volume.token_bytes is not None
    token_bytes = volume.token_bytes

    def seconds(placed: tuple[float | None, Evaluation]) -> float:
        traffic = placed[1]
        tokens = volume.tokens_per_step / volume.micro_batches if volume.tokens_per_step else traffic.num_tokens
        share = tokens / traffic.num_tokens
        sent = traffic.moves * share * token_bytes
        computed = expert_seconds(traffic.rank_loads * share, expert_parameters, flops)
        return float(_PASSES * exchange_seconds(sent, topology).sum() + computed.sum())

    return min(placements, key=seconds)[0]


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
