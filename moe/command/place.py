"""place: where each expert should live."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe.command.verb import Verb

if TYPE_CHECKING:
    from moe.command.progress import Progress

_DESCRIPTION = """\
Reads a routing trace (which experts each token was sent to), assigns the experts
of every MoE layer to the ranks of one expert-parallel group so that tokens travel
less, and writes the placement that the trainer loads with moe.placement=FILE.
The result is never worse than the contiguous placement; a lower bound says how
much better it could be. An HTML report shows where the traffic goes, and a JSON
file beside it (REPORT with suffix .report.json) holds its numbers.

Choose the objective by how the model dispatches tokens; it saves traffic only there:
  coherent   context-coherent dispatch: a token stays on the rank of its expert
             and moves on from there. Cost: moves between consecutive layers.
             Affinity between layers saves traffic in this mode only.
  home       ordinary expert parallelism: in every layer a token goes from its own
             rank to its experts and back. Cost: both ways. Saves only where ranks
             hold different kinds of tokens. Solver: assignment, which is exact.
  copies     as home, but with one copy of a token for each rank that holds any of
             its experts. Groups experts that tokens choose together.

Solvers (auto picks the first that fits):
{solvers}
  contiguous experts in the order of their ids, for comparison
  packing    balances the load of the ranks first, and only then saves moves
If there are more slots than experts (--slots-per-rank), the spare slots hold
replicas: of the busiest experts with packing, with every other solver of those
whose copies save most traffic.
"""
_EXAMPLES = """\
examples:
  python -m moe place runs/demo/traces/routing.npz --nodes 2 --ranks-per-node 4 \\
      --out placement.json
  python -m moe place routing.npz --nodes 2 --ranks-per-node 4 \\
      --cost intra=900Gbps,inter=100Gbps,latency=5us --current placement.json \\
      --expert-parameters 16384 --out next.json
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="TRACE", help="routing trace (.npz), or ExFlow's .npy of ids")
    command.add_argument("--nodes", type=int, required=True, metavar="N", help="nodes of one expert-parallel group")
    command.add_argument("--ranks-per-node", type=int, required=True, metavar="R", help="its ranks on each node")
    command.add_argument("--objective", default="coherent", metavar="NAME", help="coherent (default), home or copies")
    command.add_argument(
        "--cost",
        default="hops",
        metavar="COST",
        help="cost of one token's move: hops (default; 0 same rank, 1 same node, 2 other node), a matrix.npy "
        "[ranks, ranks], or intra=900Gbps,inter=100Gbps[,latency=5us] (transfer time; 1 inside a node)",
    )
    command.add_argument("--solver", default="auto", metavar="NAME", help="see above (default auto)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the solver's draws (default 0)")
    command.add_argument("--slots-per-rank", type=int, metavar="S", help="slots of each rank (default: no replicas)")
    command.add_argument("--num-experts", type=int, metavar="E", help="experts per layer; for .npy traces only")
    command.add_argument(
        "--current",
        type=Path,
        metavar="FILE",
        help="placement in use (default: contiguous), for comparison; experts stay there if that is free",
    )
    command.add_argument(
        "--held-out",
        type=Path,
        metavar="TRACE",
        help="other tokens of the same model, on which the placement is measured as well: what it saves there is "
        "what to expect in use",
    )
    command.add_argument("--expert-parameters", type=int, metavar="P", help="parameters of one expert, to price moves")
    command.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="results.json of netsim whose times the report shows; may be repeated",
    )
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="placement to write (.json)")
    command.add_argument("--report", type=Path, metavar="FILE", help="report to write (default: OUT with suffix .html)")


def _description() -> str:
    from moe.placement.solver.solve import SOLVERS

    solvers = "\n".join(f"  {objective:10} {', '.join(solvers)}" for objective, solvers in SOLVERS.items())
    return _DESCRIPTION.format(solvers=solvers)


def _run(arguments: argparse.Namespace) -> None:
    from moe.command.progress import Progress
    from moe.report.table import print_summary

    report_path = arguments.report or arguments.out.with_suffix(".html")
    numbers_path = report_path.with_suffix(".report.json")
    if arguments.out.resolve() in (report_path.resolve(), numbers_path.resolve()):
        raise ValueError(f"report: is the same file as --out ({arguments.out}); choose another name for one of them")
    if arguments.expert_parameters is not None and arguments.expert_parameters < 1:
        raise ValueError(f"expert_parameters: must be at least 1 ({arguments.expert_parameters}); count one expert's")
    with Progress("place") as progress:
        numbers = _place(arguments, report_path, numbers_path, progress)
    print_summary(numbers)
    print(f"wrote {arguments.out}, {report_path} and {numbers_path}")


def _place(
    arguments: argparse.Namespace, report_path: Path, numbers_path: Path, progress: "Progress"
) -> dict[str, Any]:
    """Place, write all files and return the numbers of the report."""
    import hashlib

    from moe.command.comparison import compare, hold_out
    from moe.placement.cost.evaluation import evaluate_placement
    from moe.placement.counts.statistics import RoutingStatistics
    from moe.placement.solver.solve import keep_near, solve
    from moe.placement.topology import Topology
    from moe.report.context import Context, Volume, find_moving, read_current, read_simulations
    from moe.routing_trace import RoutingTrace

    simulations = [run for path in arguments.results for run in read_simulations(path)]
    topology = Topology.parse(arguments.cost, arguments.nodes, arguments.ranks_per_node)
    progress.phase("reading the trace")
    trace = RoutingTrace.read(arguments.source, arguments.num_experts)
    progress.phase(f"counting {trace.num_tokens:,} tokens")
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    progress.phase(f"placing {statistics.num_experts} experts x {statistics.num_layers} layers ({arguments.objective})")
    placement = solve(
        statistics,
        topology,
        objective=arguments.objective,
        solver=arguments.solver,
        seed=arguments.seed,
        slots=arguments.slots_per_rank,
        trace_sha256=hashlib.sha256(arguments.source.read_bytes()).hexdigest(),
    )
    progress.phase("measuring the placement")
    current, name = read_current(arguments.current, placement)
    placement = keep_near(placement, current, statistics, topology)
    before = evaluate_placement(statistics, topology, current, placement.dispatch)
    placed = evaluate_placement(statistics, topology, placement)
    volume = Volume.of(trace, topology.num_ranks)
    moving = find_moving(placement, current.holders(), name, volume.element_bytes, arguments.expert_parameters)
    held_out = hold_out(arguments.held_out, topology, current, placement) if arguments.held_out else None
    compared = compare(statistics, topology, placement, before, name)
    context = Context(volume, name, moving, tuple(simulations), compared=compared, held_out=held_out)

    from moe.files import replacing
    from moe.report.report import placement_report
    from moe.report.summary import summarise, write_summary

    progress.phase("drawing the report")
    numbers = summarise(placement, statistics, topology, before, placed, context)
    page = placement_report(placement, statistics, topology, before, placed, context)
    with replacing(report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_summary(numbers, numbers_path)
    placement.write(arguments.out)
    return numbers


PLACE = Verb("place", "place experts on ranks by a routing trace", _description, _EXAMPLES, _add_arguments, _run)
