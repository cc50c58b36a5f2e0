"""place: where each expert should live."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from netsim.foundation.command import WORD, Request, Verb
from netsim.foundation.outputs import OutputFile, page_mark

if TYPE_CHECKING:
    from netsim.foundation.terminal import Progress

_DESCRIPTION = """\
Reads a routing trace (which experts each token was sent to), assigns the experts
of every MoE layer to the ranks of one expert-parallel group so that tokens travel
less, and writes the placement that the trainer loads with moe.placement=FILE.
The result is never worse than the contiguous placement where that keeps the cap on
the busiest rank; a lower bound says how much better it could be. An HTML report
shows where the traffic goes, and a JSON file beside it (REPORT with suffix
.report.json) holds its numbers.

The objective is how the model dispatches tokens; a placement saves traffic only there.
auto takes the mode that the trace names; where it names none, copies (home with one
choice a token), or coherent if the trace does not say which rank a token is on:
  coherent   context-coherent dispatch: a token stays on the rank of its expert
             and moves on from there. Cost: moves between consecutive layers, and
             copies for further choices. Affinity between layers saves traffic in this
             mode only.
  home       ordinary expert parallelism: in every layer a token goes from its own
             rank to its experts and back. Cost: both ways. Saves only where ranks
             hold different kinds of tokens. Solver: assignment, which is exact.
  copies     as home, but with one copy of a token for each rank that holds any of
             its experts. Groups experts that tokens choose together.
  hierarchical
             as copies, but one copy for each node that holds any of its experts,
             which is passed on inside the node.

The busiest rank sets the pace of a layer, so its load is capped (--max-load) at a
multiple of the mean. auto is 1.1; with rates in --cost, --compute and
--expert-parameters it is the cap whose exchanges and experts take least time
together. A layer that cannot keep the automatic cap gets the least load that it can
have; a cap that is given and cannot be kept is refused with the least possible one.
packing and contiguous take no automatic cap.

Solvers (auto picks the first that fits):
{solvers}
  contiguous experts in the order of their ids, for comparison
  packing    balances the load of the ranks first, and only then saves moves
If there are more slots than experts (--slots-per-rank), the spare slots hold
replicas: of the busiest experts with packing, with every other solver of those
whose copies save most traffic and even the loads of the ranks.

How to read the result:
  cost           what the objective counts, in units of --cost
  lower bound    what no placement can undercut: the certified gap is all that a
                 better search could still save
  busiest rank   its load over the mean load of a rank; it sets the pace of a layer,
                 so that traffic saved at its expense may not make a run faster
  held out       the same for other tokens of the model (--held-out): later tokens
                 are routed differently, and what is saved there is what to expect
The page also shows who sends to whom, every layer, and packing for comparison.
"""

_EXAMPLES = """\
examples:
  python -m moe place runs/demo/traces/routing.npz --nodes 2 --ranks-per-node 4 \\
      --out placement.json
  python -m moe place monday.npz --nodes 1 --ranks-per-node 8 --objective copies \\
      --held-out tuesday.npz --out placement.json
  python -m moe place routing.npz --nodes 2 --ranks-per-node 4 \\
      --cost intra=900Gbps,inter=100Gbps,latency=5us --current placement.json \\
      --expert-parameters 16384 --out next.json
  python -m moe place routing.npz --nodes 1 --ranks-per-node 8 --objective copies \\
      --max-load 1.15 --out capped.json
"""


class Place(Request):
    """Options of place."""

    source: Annotated[Path, WORD, "TRACE"]
    """routing trace (.npz), or ExFlow's .npy of ids"""
    nodes: Annotated[int, "N"]
    """nodes of one expert-parallel group"""
    ranks_per_node: Annotated[int, "R"]
    """its ranks on each node"""
    objective: Annotated[str, "NAME"] = "auto"
    """dispatch mode: coherent, home, copies, hierarchical or auto (default; see above)"""
    cost: Annotated[str, "COST"] = "hops"
    """cost of one token's move: hops (default; 0 same rank, 1 same node, 2 other node), a matrix.npy [ranks,
    ranks], or intra=900Gbps,inter=100Gbps[,latency=5us] (transfer time; 1 inside a node)"""
    solver: Annotated[str, "NAME"] = "auto"
    """see above (default auto)"""
    seed: Annotated[int, "S"] = 0
    """seed of the solver's draws (default 0)"""
    max_load: Annotated[str, "X"] = "auto"
    """cap on the busiest rank of every layer, times the mean load; none, or auto (default; see above)"""
    compute: Annotated[str | None, "RATE"] = None
    """a rank's rate of computation, such as 200TFLOPs, to choose the cap by time"""
    slots_per_rank: Annotated[int | None, "S"] = None
    """slots of each rank (default: as in --current, else no replicas)"""
    replicas: Literal["even", "least_loaded"] = "even"
    """how the run splits tokens over replicas, its moe.replicas (default even)"""
    num_experts: Annotated[int | None, "E"] = None
    """experts per layer; for .npy traces only"""
    current: Annotated[Path | None, "FILE"] = None
    """placement in use (default: contiguous), for comparison; it is kept where nothing saves more, and experts stay
    where they are if that is free"""
    held_out: Annotated[Path | None, "TRACE"] = None
    """other tokens of the same model, on which the placement is measured as well: what it saves there is what to
    expect in use"""
    expert_parameters: Annotated[int | None, "P"] = None
    """parameters of one expert, to price moves"""
    results: Annotated[tuple[Path, ...], "FILE"] = ()
    """results.json of netsim whose times the report shows; may be repeated"""
    out: Annotated[Path, "FILE"]
    """placement to write (.json)"""
    report: Annotated[Path | None, "FILE"] = None
    """report to write (default: OUT with suffix .html)"""


def _description() -> str:
    from moe.placement.solver.solve import SOLVERS

    solvers = "\n".join(f"  {objective:10} {', '.join(solvers)}" for objective, solvers in SOLVERS.items())
    return _DESCRIPTION.format(solvers=solvers)


def _run(arguments: Place) -> None:
    from moe.report.summary import print_summary
    from netsim.foundation.terminal import Progress

    report_path, numbers_path = _report_paths(arguments)
    if arguments.out.resolve() in (report_path.resolve(), numbers_path.resolve()):
        raise ValueError(f"report: is the same file as --out ({arguments.out}); choose another name for one of them")
    if arguments.expert_parameters is not None and arguments.expert_parameters < 1:
        raise ValueError(f"expert_parameters: must be at least 1 ({arguments.expert_parameters}); count one expert's")
    with Progress("moe place") as progress:
        numbers, reasons = _search(arguments, report_path, numbers_path, progress)
    print_summary(numbers)
    for reason in reasons:
        print(reason)
    print(f"wrote {arguments.out}, {report_path} and {numbers_path}")


def _search(
    arguments: Place, report_path: Path, numbers_path: Path, progress: "Progress"
) -> tuple[dict[str, Any], list[str]]:
    """Place and write all files; returns the numbers of the report, and why objective and cap are what they are."""
    import hashlib

    from moe.command.choices import USUAL_CAP, choose_objective, parse_cap, parse_flops, quickest_cap
    from moe.command.comparison import compare, hold_out
    from moe.placement.cost.evaluation import evaluate_placement
    from moe.placement.counts import RoutingStatistics
    from moe.placement.solver.solve import keep_current, keep_near, solve
    from moe.placement.solver.tradeoff import trade_off, tradeoff_points
    from moe.placement.topology import Topology
    from moe.report.context import Context, Volume, find_moving, read_current, read_simulations
    from moe.routing_trace import RoutingTrace

    simulations = [run for path in arguments.results for run in read_simulations(path)]
    topology = Topology.parse(arguments.cost, arguments.nodes, arguments.ranks_per_node)
    progress.phase("reading the trace")
    trace = RoutingTrace.read(arguments.source, arguments.num_experts)
    objective, reason = choose_objective(arguments.objective, trace, topology.num_ranks)
    volume = Volume.of(trace, topology.num_ranks)
    flops = None if arguments.compute is None else parse_flops(arguments.compute)
    if flops is not None and None in (topology.rates, arguments.expert_parameters, volume.token_bytes):
        raise ValueError(
            "compute: times need rates in --cost, --expert-parameters and a trace with the size of a token; give them, "
            "or leave --compute out"
        )
    searches, chosen = arguments.solver not in ("contiguous", "packing"), arguments.max_load == "auto"
    cap = (USUAL_CAP if searches else None) if chosen else parse_cap(arguments.max_load)
    progress.phase(f"counting {trace.num_tokens:,} tokens")
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    current, name = read_current(arguments.current, statistics, topology)
    slots = arguments.slots_per_rank
    if slots is None and arguments.current is not None:
        slots = current.slots_per_rank
    progress.phase(f"placing {statistics.num_experts} experts x {statistics.num_layers} layers ({objective})")
    place = partial(
        solve,
        statistics,
        topology,
        objective=objective,
        solver=arguments.solver,
        seed=arguments.seed,
        slots=slots,
        trace_sha256=hashlib.sha256(arguments.source.read_bytes()).hexdigest(),
        strict=not chosen,
        rule=arguments.replicas,
    )
    placement = place(max_load=cap)
    curve = []
    if searches and not placement.has_replicas:
        progress.phase("placing under other caps on the busiest rank")
        curve = trade_off(statistics, topology, placement, seed=arguments.seed)
    if chosen and flops is not None and curve:
        assert arguments.expert_parameters is not None
        quickest = quickest_cap(curve, topology, volume, arguments.expert_parameters, flops)
        if quickest != cap:
            cap, placement = quickest, place(max_load=quickest)
            curve = trade_off(statistics, topology, placement, seed=arguments.seed)
    reasons = [f"objective {objective}: {reason}"] if reason else []
    if chosen and searches:
        timed = flops is not None and curve
        by_time = "takes the least predicted time" if timed else "is the usual one; --max-load sets another"
        reasons.append(f"cap on the busiest rank: {'none' if cap is None else f'{cap:g} x mean'}, which {by_time}")
    progress.phase("measuring the placement")
    placement = keep_near(placement, current, statistics, topology)
    before = evaluate_placement(statistics, topology, current, placement.dispatch, arguments.replicas)
    placed = evaluate_placement(statistics, topology, placement, rule=arguments.replicas)
    kept = keep_current(placement, current, before, placed) if arguments.current is not None else None
    if kept is not None:
        placement, placed = kept, before
    placement = placement.model_copy(update={"dense_layers": trace.header.dense_layers})
    moving = find_moving(placement, current.holders(), name, volume.element_bytes, arguments.expert_parameters)
    held_out = None
    if arguments.held_out:
        held_out = hold_out(arguments.held_out, topology, current, placement, arguments.replicas)
    if cap is not None and (above := int((placed.imbalance > cap * 1.000001).sum())):
        reasons.append(f"layers above the cap: {above} of {placement.num_layers}, at most {placed.imbalance.max():.2f}")
    compared = compare(statistics, topology, placement, before, name)
    context = Context(
        volume,
        name,
        moving,
        tuple(simulations),
        tradeoff_points(curve),
        compared,
        held_out,
        slots=None if arguments.current is None else current.slots_per_rank,
        kept=kept is not None,
    )

    from moe.report.report import placement_report
    from moe.report.summary import summarise, write_summary
    from netsim.foundation.files import replacing

    progress.phase("drawing the report")
    numbers = summarise(placement, statistics, topology, before, placed, context)
    page = placement_report(placement, statistics, topology, before, placed, context)
    with replacing(report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_summary(numbers, numbers_path)
    placement.write(arguments.out)
    return numbers, reasons


def _report_paths(arguments: Place) -> tuple[Path, Path]:
    """The page, and the numbers beside it."""
    page = arguments.report or arguments.out.with_suffix(".html")
    return page, page.with_suffix(".report.json")


def _outputs(arguments: Place) -> list[tuple[OutputFile, Path | None]]:
    page, numbers = _report_paths(arguments)
    return [
        (OutputFile("--out", ("flowfabric.placement/",)), arguments.out),
        (OutputFile("--report", (page_mark("place"),)), page),
        (OutputFile("--report", ("flowfabric.placement_report/",)), numbers),
    ]


PLACE = Verb(
    name="place",
    summary="place experts on ranks by a routing trace",
    description=_description,
    epilog=_EXAMPLES,
    request=Place,
    run=_run,
    outputs=_outputs,
    following="python -m moe price TRACE.jsonl --routing {source} --placement {out} "
    "--scenario configs/scenarios/two_nodes.yaml --out {out}.price",
)
