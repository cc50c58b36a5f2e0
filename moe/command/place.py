"""place: where each expert should live."""

import re
from pathlib import Path
from typing import Annotated, Literal

from netsim.foundation.command import WORD, Request, Verb
from netsim.foundation.outputs import OutputFile, page_mark

_RATE = re.compile(r"([\d.]+)([GTP])FLOPs?")
_PREFIXES = {"G": 1e9, "T": 1e12, "P": 1e15}
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
             rank to its experts and back. Cost: both directions. Saves only where ranks
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
    from moe.place import place
    from moe.placement.topology import Topology
    from moe.report.context import read_simulations
    from moe.report.report import placement_report
    from moe.report.summary import print_summary, summarise, write_summary
    from netsim.foundation.files import write_text
    from netsim.foundation.terminal import Progress

    report_path, numbers_path = _report_paths(arguments)
    if arguments.out.resolve() in (report_path.resolve(), numbers_path.resolve()):
        raise ValueError(f"report: is the same file as --out ({arguments.out}); choose another name for one of them")
    if arguments.expert_parameters is not None and arguments.expert_parameters < 1:
        raise ValueError(f"expert_parameters: must be at least 1 ({arguments.expert_parameters}); count one expert's")
    with Progress("moe place") as progress:
        topology = Topology.parse(arguments.cost, arguments.nodes, arguments.ranks_per_node)
        placed = place(
            arguments.source,
            topology,
            progress,
            num_experts=arguments.num_experts,
            objective=arguments.objective,
            solver=arguments.solver,
            seed=arguments.seed,
            max_load=parse_cap(arguments.max_load),
            flops=None if arguments.compute is None else parse_flops(arguments.compute),
            slots=arguments.slots_per_rank,
            rule=arguments.replicas,
            current=arguments.current,
            held_out=arguments.held_out,
            expert_parameters=arguments.expert_parameters,
            simulations=[run for path in arguments.results for run in read_simulations(path)],
        )
        progress.phase("drawing the report")
        measured = (placed.placement, placed.statistics, topology, placed.before, placed.after, placed.context)
        numbers = summarise(*measured)
        page = placement_report(*measured)
        write_text(report_path, page)
        write_summary(numbers, numbers_path)
        placed.placement.write(arguments.out)
    print_summary(numbers)
    for reason in placed.reasons:
        print(reason)
    print(f"wrote {arguments.out}, {report_path} and {numbers_path}")


def parse_cap(text: str) -> float | Literal["auto"] | None:
    """A cap on the load of a rank: a number, auto, or none."""
    if text in ("auto", "none"):
        return "auto" if text == "auto" else None
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"max_load: is not a number ({text}); give a multiple of the mean such as 1.1, auto or none"
        ) from None


def parse_flops(text: str) -> float:
    """A rate of computation such as 200TFLOPs, in operations a second."""
    match = _RATE.fullmatch(text)
    try:
        rate = float(match[1]) * _PREFIXES[match[2]] if match else 0.0
    except ValueError:
        rate = 0.0
    if not rate:
        raise ValueError(f"compute: is not a rate above 0 ({text}); give one such as 200TFLOPs")
    return rate


def _report_paths(arguments: Place) -> tuple[Path, Path]:
    """Returns the path of the report page, and of the JSON file of numbers beside it."""
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
