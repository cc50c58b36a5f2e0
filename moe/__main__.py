"""The verbs of moe; `python -m moe --help` lists them."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

_DESCRIPTION = "Place the experts of a mixture-of-experts model on ranks."
_PLACE = """\
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
_PLACE_EXAMPLE = """\
examples:
  python -m moe place runs/demo/traces/routing.npz --nodes 2 --ranks-per-node 4 \\
      --out placement.json
  python -m moe place routing.npz --nodes 2 --ranks-per-node 4 \\
      --cost intra=900Gbps,inter=100Gbps,latency=5us --current placement.json \\
      --expert-parameters 16384 --out next.json
"""
_REPLAY = """\
Rewrites a recorded collective trace: the result is the trace that the same run would
have left under another placement or dispatch mode. This is exact because the router's
choices do not depend on where the experts are. Simulate the result with
`python -m netsim compare`.
"""
_REPLAY_EXAMPLE = """\
example:
  python -m moe replay runs/demo/traces/collectives.jsonl --routing runs/demo/traces/routing.npz \\
      --placement placement.json --out replayed.jsonl
"""
_EXPORT = """\
Writes a file of this project in a format of ExFlow:
  exflow-csv   a placement (.json) as CSV with the header Expert,Node
  exflow-npy   the expert ids of a routing trace (.npz) as an array [tokens, layers],
               or [tokens, layers, k] for several choices
"""
_EXPORT_EXAMPLE = """\
examples:
  python -m moe export placement.json --to exflow-csv placement.csv
  python -m moe export routing.npz --to exflow-npy routing.npy
"""
_IMPORT = """\
Reads a placement of ExFlow (CSV with the header Expert,Node, where Node is a rank
and the id of an expert is layer * experts + expert) and writes it as a placement
of this project.
"""
_IMPORT_EXAMPLE = """\
example:
  python -m moe import placement.csv --num-experts 8 --nodes 1 --ranks-per-node 4 --out placement.json
"""
_OPTIONS = {
    "objective": "--objective",
    "cost": "--cost",
    "solver": "--solver",
    "seed": "--seed",
    "slots": "--slots-per-rank",
    "num_nodes": "--nodes",
    "ranks_per_node": "--ranks-per-node",
    "report": "--report",
    "expert_parameters": "--expert-parameters",
    "to": "--to",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after `python -m moe`; those of the process by default.

    Returns:
        0 when done, 2 for wrong input (one line on stderr names field, problem and remedy).
    """
    arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    try:
        arguments.run(arguments)
    except ValueError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"moe {arguments.verb}: {_located(error, arguments.source)}", file=sys.stderr)
        return 2
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m moe", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(
        verb: str, run: Callable[[argparse.Namespace], None], summary: str, description: str, epilog: str
    ) -> argparse.ArgumentParser:
        command = verbs.add_parser(
            verb,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", help="print the traceback of an error")
        return command

    described = _PLACE.format(solvers=_solvers()) if "place" in argv else _PLACE
    _add_place(add("place", _place, "place experts on ranks by a routing trace", described, _PLACE_EXAMPLE))

    command = add("replay", _replay, "rewrite a collective trace for a placement", _REPLAY, _REPLAY_EXAMPLE)
    command.add_argument("source", type=Path, metavar="TRACE", help="recorded collective trace (.jsonl)")
    command.add_argument("--routing", type=Path, required=True, metavar="FILE", help="routing trace of the same run")
    command.add_argument(
        "--placement", type=Path, required=True, metavar="FILE", help="placement to rewrite the trace for"
    )
    command.add_argument("--dispatch", choices=("coherent", "home", "copies"), help="default: the placement's own")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="trace to write (.jsonl)")

    command = add("export", _export, "write a placement or a trace as ExFlow does", _EXPORT, _EXPORT_EXAMPLE)
    command.add_argument("source", type=Path, metavar="FILE", help="placement (.json) or routing trace (.npz)")
    command.add_argument("--to", required=True, metavar="FORMAT", help="exflow-csv or exflow-npy")
    command.add_argument("out", type=Path, metavar="OUT", help="file to write")

    command = add("import", _import, "read a placement of ExFlow", _IMPORT, _IMPORT_EXAMPLE)
    command.add_argument("source", type=Path, metavar="FILE", help="ExFlow's placement (.csv)")
    command.add_argument("--num-experts", type=int, required=True, metavar="E", help="experts per layer")
    command.add_argument("--nodes", type=int, required=True, metavar="N", help="nodes of one expert-parallel group")
    command.add_argument("--ranks-per-node", type=int, required=True, metavar="R", help="its ranks on each node")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="placement to write (.json)")
    return parser


def _add_place(place: argparse.ArgumentParser) -> None:
    place.add_argument("source", type=Path, metavar="TRACE", help="routing trace (.npz), or ExFlow's .npy of ids")
    place.add_argument("--nodes", type=int, required=True, metavar="N", help="nodes of one expert-parallel group")
    place.add_argument("--ranks-per-node", type=int, required=True, metavar="R", help="its ranks on each node")
    place.add_argument("--objective", default="coherent", metavar="NAME", help="coherent (default), home or copies")
    place.add_argument(
        "--cost",
        default="hops",
        metavar="COST",
        help="cost of one token's move: hops (default; 0 same rank, 1 same node, 2 other node), a matrix.npy "
        "[ranks, ranks], or intra=900Gbps,inter=100Gbps[,latency=5us] (transfer time; 1 inside a node)",
    )
    place.add_argument("--solver", default="auto", metavar="NAME", help="see above (default auto)")
    place.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the solver's draws (default 0)")
    place.add_argument("--slots-per-rank", type=int, metavar="S", help="slots of each rank (default: no replicas)")
    place.add_argument("--num-experts", type=int, metavar="E", help="experts per layer; for .npy traces only")
    place.add_argument(
        "--current",
        type=Path,
        metavar="FILE",
        help="placement in use (default: contiguous), for comparison; experts stay there if that is free",
    )
    place.add_argument("--expert-parameters", type=int, metavar="P", help="parameters of one expert, to price moves")
    place.add_argument(
        "--results",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="results.json of netsim whose times the report shows; may be repeated",
    )
    place.add_argument("--out", type=Path, required=True, metavar="FILE", help="placement to write (.json)")
    place.add_argument("--report", type=Path, metavar="FILE", help="report to write (default: OUT with suffix .html)")


def _solvers() -> str:
    from moe.placement.solve import SOLVERS

    return "\n".join(f"  {objective:10} {', '.join(solvers)}" for objective, solvers in SOLVERS.items())


def _place(arguments: argparse.Namespace) -> None:
    import hashlib

    from moe.placement.evaluation import evaluate_placement
    from moe.placement.solve import keep_near, solve
    from moe.placement.statistics import RoutingStatistics
    from moe.placement.topology import Topology
    from moe.report.context import Context, Volume, find_moving, read_current, read_simulations
    from moe.routing_trace import RoutingTrace

    report_path = arguments.report or arguments.out.with_suffix(".html")
    numbers_path = report_path.with_suffix(".report.json")
    if arguments.out.resolve() in (report_path.resolve(), numbers_path.resolve()):
        raise ValueError(f"report: is the same file as --out ({arguments.out}); choose another name for one of them")
    if arguments.expert_parameters is not None and arguments.expert_parameters < 1:
        raise ValueError(f"expert_parameters: must be at least 1 ({arguments.expert_parameters}); count one expert's")
    simulations = [run for path in arguments.results for run in read_simulations(path)]
    topology = Topology.parse(arguments.cost, arguments.nodes, arguments.ranks_per_node)
    trace = RoutingTrace.read(arguments.source, arguments.num_experts)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    placement = solve(
        statistics,
        topology,
        objective=arguments.objective,
        solver=arguments.solver,
        seed=arguments.seed,
        slots=arguments.slots_per_rank,
        trace_sha256=hashlib.sha256(arguments.source.read_bytes()).hexdigest(),
    )
    current, name = read_current(arguments.current, placement)
    placement = keep_near(placement, current, statistics, topology)
    before = evaluate_placement(statistics, topology, current, placement.dispatch)
    placed = evaluate_placement(statistics, topology, placement)
    volume = Volume.of(trace, topology.num_ranks)
    moving = find_moving(placement, current.holders(), name, volume.element_bytes, arguments.expert_parameters)
    context = Context(volume, name, moving, tuple(simulations))

    from moe.files import replacing
    from moe.report.report import placement_report
    from moe.report.summary import summarise, write_summary
    from moe.report.table import print_summary

    numbers = summarise(placement, statistics, topology, before, placed, context)
    page = placement_report(placement, statistics, topology, before, placed, context)
    with replacing(report_path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_summary(numbers, numbers_path)
    placement.write(arguments.out)
    print_summary(placement, before, placed, numbers)
    print(f"wrote {arguments.out}, {report_path} and {numbers_path}")


def _replay(arguments: argparse.Namespace) -> None:
    from moe.collective_trace import read, write
    from moe.placement.placement import Placement
    from moe.replay import replay
    from moe.routing_trace import RoutingTrace

    header, records = read(arguments.source)
    routing, placement = RoutingTrace.read(arguments.routing), Placement.read(arguments.placement)
    header, records = replay(header, records, routing, placement, arguments.dispatch)
    write(arguments.out, header, records)
    print(f"wrote {arguments.out}: {len(records)} collectives in {arguments.dispatch or placement.dispatch} dispatch")


def _export(arguments: argparse.Namespace) -> None:
    from moe.placement.exflow import write_csv, write_npy
    from moe.placement.placement import Placement
    from moe.routing_trace import RoutingTrace

    if arguments.to == "exflow-csv":
        write_csv(Placement.read(arguments.source), arguments.out)
    elif arguments.to == "exflow-npy":
        write_npy(RoutingTrace.read(arguments.source), arguments.out)
    else:
        raise ValueError(f"to: unknown format ({arguments.to}); choose from exflow-csv, exflow-npy")
    print(f"wrote {arguments.out}")


def _import(arguments: argparse.Namespace) -> None:
    from moe.placement.exflow import read_csv

    placement = read_csv(arguments.source, arguments.num_experts, arguments.nodes, arguments.ranks_per_node)
    placement.write(arguments.out)
    print(f"wrote {arguments.out}: {placement.num_layers} layers, {placement.slots_per_rank} experts a rank")


def _located(error: ValueError, source: Path) -> str:
    from moe.files import FileError

    text = " ".join(str(error).split())
    if isinstance(error, FileError):
        return text
    field, _, problem = text.partition(": ")
    return f"{_OPTIONS[field]}: {problem}" if field in _OPTIONS else f"{source}: {text}"


if __name__ == "__main__":
    sys.exit(main())
