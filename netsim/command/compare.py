"""compare: every transport and seed of a scenario."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from netsim.command.options import add_overwrite, cores, refuse_foreign, refuse_no_processes
from netsim.command.status import DONE
from netsim.command.verb import Verb

if TYPE_CHECKING:
    from netsim.results import RunEvent

_ABOUT = """\
Simulates a workload on a fabric, once for each transport and seed of a scenario, and says how long each takes.

example:
  python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/a2a
  python -m netsim compare configs/scenarios/all_to_all_64.yaml topology.spines=4 'seeds=[0,1]' --out runs/a2a_4
  python -m netsim compare configs/scenarios/two_nodes.yaml workload.path=a.jsonl --against b.jsonl --out runs/a_b
  python -m netsim compare configs/scenarios/demo.yaml --against algorithms=nccl --out runs/nccl

A scenario is a YAML file. Its main keys, with defaults [in brackets]:
  topology    {kind: leaf_spine, leaves: 8, spines: 8, hosts_per_leaf: 8, parallel: [1], ranks_per_host: [1],
               host_rate: [100Gbps], fabric_rate: [100Gbps], or a list with a rate for each spine,
               intra_host_rate: [3600Gbps], link_delay: [500ns], queue: [unlimited] or 800KB,
               failures: [{link: leaf0-spine3 or switch: spine3, at: [0us], until: [null], rate: [0]}]}
              {kind: fat_tree, k: 8}, {kind: graph, path: fabric.json}, {kind: htsim, path: fabric.topo},
              {kind: dragonfly, switches_per_group: 4, hosts_per_switch: 2, global_links: 2},
              {kind: torus, dims: [4, 4, 4]},
              {kind: preset, name: dgx_h100_32}: a file of configs/topologies; adapters_per_host, rails and
              gpu_link_rate of leaf_spine and fat_tree are hosts of several adapters
  packet      {payload: [4000B], header: [0B]}
  nic         {scheduling: [round_robin] or sequential, destinations: [random] or rotated}
  workload    {kind: collective, op: all_to_all, bytes_per_rank: 4.096MB}, a rank's input buffer
              {kind: trace, path: collectives.jsonl, steps: [all] or a list, gaps: [null] or a trace of equal structure
               whose gaps of computation are taken, device: [null] or h100, h200, a100, b200, ... which computes the
               work of a trace without gaps}
              {kind: flows, path: flows.csv}, {kind: matrix, path: file.cm}, {kind: chakra, path: folder},
              {kind: goal, path: file.goal}, {kind: simccl, path: ncclFlowModel_detailed_flows.csv}
  jobs        [{workload: ..., ranks: [0, 1, ...], start: [0us]}], in place of workload
  algorithms  {all_reduce: [ring], tree, double_tree, recursive_doubling, halving_doubling, direct or hierarchical, ...}
              all_to_all: pxn goes through the GPU of the sender's host that sits on the receiver's rail;
              auto: the fastest by estimates from rates and delays; nccl: as NCCL chooses; {table: FILE}: your own;
              launch, step, inside_step: [0us] time of software of a collective and before each of its messages
  transports  any of ecmp, mprdma-4, flowlet, adaptive_flow, spray_random, spray_round_robin, drb, reps, drill, jsq,
              ethereal, ideal (flow level); valiant, ugal: detours on a dragonfly or torus; a mapping gives options:
              {kind: drill, d: 2, m: 1, label: drill-2-1},
              {kind: ethereal, order: staggered}; {class: "module:Class"} is a transport class of your own
  congestion  {kind: [none], window, dctcp, dcqcn, swift, nscc, receiver_credit or ndp}
  recovery    {kind: [none], go_back_n or selective, timeout: [auto] (round trips, 1ms at least) or a duration; doubled
               for each timeout in a row up to longest_timeout: [100ms]}
  flow_control {kind: [none], trim or pfc}
  limits      {simulated: [none] or 10ms, wall: [none] or 60s, fruitless: [256] timeouts of a flow in a row}; a run that
              reaches one ends with exit status 1 and a line that says who waits for what
  classes     [urgent, {name: bulk, weight: 3}, ...]: own queues; those with weights take turns behind the others
  engine      [auto]: the fastest that is exact; simpy, exact, event, windowed; fluid (flow level)
  draws       [task], or collective: equal collectives draw the same random numbers
  fast_forward [true]: what repeats in open loops is simulated once, to the same last bit; false simulates all
  seeds       a list; every transport runs once with each
Paths are relative to the working directory. configs/scenarios has examples, configs/schemas lists every key.
Quantities carry their unit: ps ns us ms s; bps kbps Mbps Gbps Tbps; B KB MB GB (1000), KiB MiB GiB (1024).

With --against TRACE, that trace is simulated in place of the scenario's too, and report.html begins with both times. If
both issue the same operations in the same order, the second takes the gaps of computation of the first, so that their
difference is that of their traffic and not the noise of two recordings; --gaps own leaves each its own.
With --against KEY=VALUE, the scenario is simulated with that change too, such as algorithms=nccl.

written to DIR, each file complete or not at all (and to DIR/against for what --against names):
  results.json            scenario, links and figures of every run; times in ns, sizes in bytes
  links.csv, flows.csv    every link and flow of every run; above 100,000 flows it is flows.csv.gz
  collectives.csv         every collective of every run: operation, arrival of its first rank, end at its last rank
  report.html             a page with tables and pictures. The pictures are also in figures/: completion, timeline,
                          operations, links, loads, queues and flows.svg, and phases.svg for traces with rollouts,
                          whose share is printed, too; a picture without data is left out
  trace.json              collectives, flows and queues of the first seed over time, for Perfetto
Files (except wall_s) and printed results (except progress) do not depend on the number of cores. Small runs, which are
over before an engine would be compiled, take simpy until it is: results are equal but for engine and skipped_*.

exit status: 0 done, 1 failed, 2 wrong input, with one line on stderr that names file, field and remedy.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario, YAML")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to it, by dotted key")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    add_overwrite(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores(),
        metavar="N",
        help="cores: a process for each run, and threads of large runs where there are fewer (default: all)",
    )
    parser.add_argument(
        "--against", metavar="TRACE|KEY=VALUE", help="a second trace in place of the scenario's, or a second scenario"
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="what computes where a trace has work and no gaps, such as h100: workload.device=NAME",
    )
    parser.add_argument(
        "--gaps",
        choices=("shared", "own"),
        default="shared",
        help="shared (default): a second trace of equal structure takes the first one's gaps of computation",
    )


def _run(arguments: argparse.Namespace) -> int:
    from netsim.against import simulate_change, simulate_pair
    from netsim.compare import simulate
    from netsim.report.against import print_changes, sections
    from netsim.report.comparison import write_report
    from netsim.report.terminal import print_table, watching

    refuse_no_processes(arguments.jobs)
    refuse_foreign(arguments.out, "compare", "results.json", arguments.overwrite)
    with watching() as show:
        waits = False

        def progress(event: "RunEvent") -> None:
            nonlocal waits
            if event.compiling is not None and not waits:
                waits = True
                what = "an engine is compiled at its first use, once for each version of netsim"
                print(f"netsim compare: {what}; the largest take some minutes of a core", file=sys.stderr)
            show(event)

        source, overrides = arguments.scenario, list(arguments.overrides)
        how = {"jobs": arguments.jobs, "progress": progress}
        if arguments.device is not None:
            overrides.append(f"workload.device={arguments.device}")
        pair = None
        if arguments.against is None:
            results = simulate(source, overrides=overrides, **how)
        elif "=" in arguments.against and not Path(arguments.against).exists():
            pair = simulate_change(source, overrides, arguments.against, **how)
            results = pair.first
        else:
            pair = simulate_pair(source, overrides, Path(arguments.against), gaps=arguments.gaps, **how)
            results = pair.first
    for notice in results.notices:
        print(f"netsim compare: {notice}", file=sys.stderr)
    results.write(arguments.out)
    write_report(results, arguments.out, beside=() if pair is None else sections(pair))
    print_table(results)
    if pair is not None:
        pair.second.write(arguments.out / "against")
        write_report(pair.second, arguments.out / "against")
        print_changes(pair)
    print(f"report: {arguments.out / 'report.html'}")
    return DONE


COMPARE = Verb("compare", "every transport and seed of a scenario", _ABOUT, _add_arguments, _run)
