"""The verbs of moe; `python -m moe --help` lists them."""

import argparse
import hashlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_DESCRIPTION = "Decide where the experts of a mixture-of-experts model should live."
_PLACE = """\
Reads a routing trace (which experts each token was sent to), assigns the experts
of every MoE layer to the ranks of one expert-parallel group so that tokens travel
less, and writes the placement that the trainer loads with moe.placement=FILE.
The result is never worse than the contiguous placement; a lower bound says how
much better it could be, and an HTML report shows where the traffic goes.

Choose the objective by how the model dispatches tokens; it saves traffic only there:
  coherent   context-coherent dispatch: a token stays on the rank of its expert
             and moves on from there. Cost: moves between consecutive layers.
             Solver: sweep.
  home       ordinary expert parallelism: in every layer a token goes from its own
             rank to its experts and back. Cost: both ways. Solver: assignment,
             which is exact.
"""
_EXAMPLE = """\
example:
  python -m moe place runs/demo/traces/routing.npz --nodes 2 --ranks-per-node 4 \\
      --out placement.json
"""
_OPTIONS = {
    "objective": "--objective",
    "cost": "--cost",
    "solver": "--solver",
    "seed": "--seed",
    "num_nodes": "--nodes",
    "ranks_per_node": "--ranks-per-node",
    "report": "--report",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: Arguments after `python -m moe`; those of the process by default.

    Returns:
        0 when done, 2 for wrong input (one line on stderr says what and how to put it right).
    """
    arguments = _parser().parse_args(argv)
    try:
        _place(arguments)
    except ValueError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"moe place: {_located(error, arguments.trace)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m moe", description=_DESCRIPTION)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    place = verbs.add_parser(
        "place",
        help="place experts on ranks by a routing trace",
        description=_PLACE,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    place.add_argument("trace", type=Path, metavar="TRACE", help="routing trace (.npz), or ExFlow's .npy of expert ids")
    place.add_argument("--nodes", type=int, required=True, metavar="N", help="nodes of one expert-parallel group")
    place.add_argument("--ranks-per-node", type=int, required=True, metavar="R", help="its ranks on each node")
    place.add_argument("--objective", default="coherent", metavar="NAME", help="coherent (default) or home, see above")
    place.add_argument(
        "--cost",
        default="hops",
        metavar="COST",
        help="cost of one token's move: hops (default; 0 same rank, 1 same node, 2 other node), a matrix.npy "
        "[ranks, ranks], or intra=900Gbps,inter=100Gbps (transfer time; 1 inside a node)",
    )
    place.add_argument("--solver", default="auto", metavar="NAME", help="auto (default), contiguous, sweep, assignment")
    place.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the solver's draws (default 0)")
    place.add_argument("--num-experts", type=int, metavar="E", help="experts per layer; for .npy traces only")
    place.add_argument("--out", type=Path, required=True, metavar="FILE", help="placement to write (.json)")
    place.add_argument("--report", type=Path, metavar="FILE", help="report to write (default: OUT with suffix .html)")
    place.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return parser


def _place(arguments: argparse.Namespace) -> None:
    from moe.placement.contiguous import contiguous_ranks
    from moe.placement.evaluation import evaluate
    from moe.placement.solve import solve
    from moe.placement.statistics import RoutingStatistics
    from moe.placement.topology import Topology
    from moe.routing_trace import RoutingTrace

    report_path = arguments.report or arguments.out.with_suffix(".html")
    if report_path.resolve() == arguments.out.resolve():
        raise ValueError(f"report: is the same file as --out ({report_path}); choose another name for one of them")
    topology = Topology.parse(arguments.cost, arguments.nodes, arguments.ranks_per_node)
    trace = RoutingTrace.read(arguments.trace, arguments.num_experts)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    placement = solve(
        statistics,
        topology,
        objective=arguments.objective,
        solver=arguments.solver,
        seed=arguments.seed,
        trace_sha256=hashlib.sha256(arguments.trace.read_bytes()).hexdigest(),
    )
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    contiguous = evaluate(statistics, topology, baseline, placement.dispatch)
    placed = evaluate(statistics, topology, placement.expert_ranks(), placement.dispatch)

    from moe.files import replacing
    from moe.report.report import placement_report
    from moe.report.table import print_summary

    with replacing(report_path) as temporary:
        temporary.write_text(placement_report(placement, statistics, topology, contiguous, placed), encoding="utf-8")
    placement.write(arguments.out)
    print_summary(placement, statistics, topology, contiguous, placed)
    print(f"wrote {arguments.out} and {report_path}")


def _located(error: ValueError, trace: Path) -> str:
    from moe.files import FileError

    text = " ".join(str(error).split())
    if isinstance(error, FileError):
        return text
    field, _, problem = text.partition(": ")
    return f"{_OPTIONS[field]}: {problem}" if field in _OPTIONS else f"{trace}: {text}"


if __name__ == "__main__":
    sys.exit(main())
