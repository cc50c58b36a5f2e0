"""Command line: ``python -m netsim VERB``."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from netsim.errors import InputError, LimitError, listed, nearest

if TYPE_CHECKING:
    from netsim.observe.status import Status, Watcher
    from netsim.results import RunEvent

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_ABOUT = "Predicts what a network does with the traffic of distributed training."
_COMPARE = """\
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
              gpu_link_rate of leaf_spine are hosts of several adapters
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
              auto: the fastest by estimates from rates and delays; nccl: as NCCL chooses; {table: FILE}: your own;
              launch, step, inside_step: [0us] time of software of a collective and before each of its messages
  transports  any of ecmp, mprdma-4, flowlet, adaptive_flow, spray_random, spray_round_robin, drb, reps, drill, jsq,
              ethereal, ideal (flow level); valiant, ugal: detours on a dragonfly or torus; a mapping gives options:
              {kind: drill, d: 2, m: 1, label: drill-2-1},
              {kind: ethereal, order: staggered}; {class: "module:Class"} is a transport class of your own
  congestion  {kind: [none], window, dctcp, dcqcn, swift, nscc,
              receiver_credit or ndp}
  recovery    {kind: [none], go_back_n or selective, timeout: [auto] (round trips, 1ms at least) or a duration; doubled
               for each timeout in a row up to longest_timeout: [100ms]}
  flow_control {kind: [none], trim or pfc}
  limits      {simulated: [none] or 10ms, wall: [none] or 60s, fruitless: [256] timeouts of a flow in a row}; a run that
              reaches one ends with exit status 1 and a line that says who waits for what
  engine      [auto]: the fastest that is exact; simpy, exact, event; fluid (flow level)
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
Files (except wall_s) and printed results (except progress) do not depend on the number of processes.

exit status: 0 done, 1 failed, 2 wrong input, with one line on stderr that names file, field and remedy.
"""

_SWEEP = """\
Simulates a grid of scenarios, one run (cell, transport, seed) at a time on every core, and compares all on one page.

example:
  python -m netsim sweep configs/sweeps/spines.yaml --out runs/spines
  python -m netsim sweep configs/sweeps/spines.yaml --out runs/spines --executor tcp://scheduler:8786

A sweep is YAML:
  format: flowfabric.sweep/1
  scenario: configs/scenarios/all_to_all_64.yaml    path from the working directory, or the scenario itself
  grid:                                             every combination is a cell; keys are those of compare's KEY=VALUE
    topology.spines: [2, 4, 8]
    packet.payload: [1KB, 4KB]
  cells: [{seeds: [0]}, {seeds: [1]}]               combinations that are not a grid; each with every point of the grid

Every cell is checked before anything runs. The same command again goes on where a sweep was stopped or killed: finished
runs are kept, whatever else has changed in the sweep, as long as their scenario, the files it names and netsim are the
same. No other process may write to DIR meanwhile.

written to DIR, each file and each cell whole or not at all:
  cells/KEY/    a finished cell: results.json, links.csv, flows.csv and collectives.csv, as from compare
  unfinished/   finished runs of unfinished cells
  summary.csv   a row for every run that is over: its cell's KEY, the cell's values, the results, or the problem of a
                run that failed; updated once a second
  index.html    all finished cells on one page, at the end
Files (except wall_s) do not depend on the number of processes or machines, or on how often a sweep was stopped.

With --executor, the workers of a Dask cluster simulate (pip install 'flowfabric[cluster]'). They need the same version
of netsim, and the files of the scenarios under the same paths; both are checked. Only this machine writes files.

exit status: 0 done, 1 some cells failed, 2 wrong input, with one line on stderr for each failed cell or for the wrong
input.
"""
_COMPILE = """\
Compiles every engine, two to four minutes once for each version, so that no later command waits for it. For images of
containers and for machines that many use; the compiled code lies beside the sources.

example:
  python -m netsim compile
"""
_BENCH = """\
Measures how many packet-hops (a packet over a link) each engine simulates in a second of CPU time, on this machine.

example:
  python -m netsim bench --out bench.json

Every case runs in a process of its own: once at a small size, which compiles the engine, then several times at full
size. The median of these is reported. Takes a few minutes.
"""
_EXPORT = """\
Writes a collective trace in the format of another simulator.

example:
  python -m netsim export runs/demo/traces/collectives.jsonl --to chakra runs/demo/chakra

chakra: an execution trace NAME.RANK.et for each rank, and comm_groups.json, as ASTRA-sim reads them.
"""

_IMPORT = """\
Turns what another tool recorded into a collective trace, for workload: {kind: trace, path: FILE}.

example:
  python -m netsim import kineto profiles --out trace.jsonl

kineto: a folder with the profile of every rank, .json or .json.gz, as torch.profiler writes it with export_chrome_trace
or tensorboard_trace_handler. Needed are NCCL and the events record_param_comms, which say of each collective its name,
elements, dtype, splits and process group. The time between two collectives of a rank becomes the gap of computation
before the second. The kernels' times count where the profile has them. Profiles of gloo do not say the sizes.

FILE is written whole or not at all, after a check that all ranks call the same collectives.
"""

_KEYS = """\
Lists every key of a scenario: what it takes, its default, its unit and what it means. One line a key where the output
is piped, for grep. The same is on the page configs/README.md; editors complete keys from
configs/schemas/scenario.schema.json, which the first line of each scenario in configs names.

examples:
  python -m netsim keys topology
  python -m netsim keys transports.ethereal
"""


class _Parser(argparse.ArgumentParser):
    """Answers wrong arguments with one line, like any other wrong input, instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument VERB: invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong is not None:
            near = nearest(wrong[1], listed(wrong[2]))
            message = f"{wrong[1]} is not a verb" + (f"; use {near}" if near else "")
        print(f"{self.prog}: command line: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_INPUT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        The exit status.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return arguments.run(arguments)
    except LimitError as error:
        return _refuse(arguments, error, str(error), FAILED)
    except InputError as error:
        return _refuse(arguments, error, str(error), WRONG_INPUT)
    except KeyboardInterrupt as error:
        return _refuse(arguments, error, "interrupted", INTERRUPTED)
    except Exception as error:
        return _refuse(arguments, error, f"{type(error).__name__}: {error}; use --debug to see where", FAILED)


def _refuse(arguments: argparse.Namespace, error: BaseException, problem: str, status: int) -> int:
    """Prints an error in one line and returns the exit status."""
    if arguments.debug:
        traceback.print_exception(error)
    print(f"netsim {arguments.verb}: {' '.join(problem.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="netsim", description=_ABOUT)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, summary: str, description: str, run: Callable[[argparse.Namespace], int]) -> _Parser:
        style = argparse.RawDescriptionHelpFormatter
        added = verbs.add_parser(name, help=summary, description=description, formatter_class=style)
        added.add_argument("--debug", action="store_true", help="print the traceback of an error")
        added.set_defaults(run=run)
        return added

    compare = verb("compare", "every transport and seed of a scenario", _COMPARE, _compare)
    compare.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario, YAML")
    compare.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to it, by dotted key")
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    compare.add_argument("--jobs", type=int, default=_cores(), metavar="N", help="processes (default: all cores)")
    compare.add_argument(
        "--against", metavar="TRACE|KEY=VALUE", help="a second trace in place of the scenario's, or a second scenario"
    )
    compare.add_argument(
        "--device",
        metavar="NAME",
        help="what computes where a trace has work and no gaps, such as h100: workload.device=NAME",
    )
    compare.add_argument(
        "--gaps",
        choices=("shared", "own"),
        default="shared",
        help="shared (default): a second trace of equal structure takes the first one's gaps of computation",
    )

    sweep = verb("sweep", "a grid of scenarios, resumable, on one machine or many", _SWEEP, _sweep)
    sweep.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep, YAML")
    sweep.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    who = sweep.add_mutually_exclusive_group()
    who.add_argument("--jobs", type=int, metavar="N", help="local processes (default: all cores)")
    who.add_argument(
        "--executor", metavar="ADDRESS", help="Dask scheduler, in place of local processes: tcp://scheduler:8786"
    )
    sweep.add_argument(
        "--prometheus-port", type=int, metavar="PORT", help="serve metrics for Prometheus on 127.0.0.1 (0: a free port)"
    )

    bench = verb("bench", "packet-hops per second of CPU time, by engine", _BENCH, _bench)
    bench.add_argument("--out", type=Path, metavar="FILE", help="also write the figures there, JSON")
    bench.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs a case (default: 5)")

    verb("compile", "compile every engine ahead of its first use", _COMPILE, _compile)

    export = verb("export", "a collective trace for another simulator", _EXPORT, _export)
    export.add_argument("trace", type=Path, metavar="TRACE", help="a collective trace, JSONL")
    export.add_argument(
        "--to", nargs=2, required=True, metavar=("FORMAT", "DIR"), help="the format (chakra) and the output folder"
    )
    importing = verb("import", "a collective trace from what another tool recorded", _IMPORT, _import)
    importing.add_argument("kind", metavar="FORMAT", help="kineto")
    importing.add_argument("path", type=Path, metavar="DIR", help="what was recorded")
    importing.add_argument("--out", type=Path, required=True, metavar="FILE", help="the trace to write, JSON lines")
    keys = verb("keys", "every key of a scenario: what it takes, its default and what it means", _KEYS, _keys)
    keys.add_argument("prefix", nargs="?", metavar="PREFIX", help="show only the keys that begin so")
    return parser


def _cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compare(arguments: argparse.Namespace) -> int:
    from netsim.against import simulate_change, simulate_pair
    from netsim.engines import none_compiled
    from netsim.report.against import print_changes, sections
    from netsim.report.comparison import write_report
    from netsim.report.terminal import print_table, watching
    from netsim.simulate import simulate

    _refuse_no_processes(arguments.jobs)
    _refuse_file(arguments.out)
    with watching() as show:
        untold = none_compiled()

        def progress(event: "RunEvent") -> None:
            nonlocal untold
            if untold:
                print(
                    "netsim compare: the first use of an engine compiles it, once per version; up to a minute",
                    file=sys.stderr,
                )
                untold = False
            show(event)

        source, overrides, how = (
            arguments.scenario,
            list(arguments.overrides),
            {"jobs": arguments.jobs, "progress": progress},
        )
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


def _sweep(arguments: argparse.Namespace) -> int:
    from netsim.observe.prometheus import Gauges
    from netsim.observe.terminal import watching
    from netsim.sweep import sweep

    jobs = _cores() if arguments.jobs is None else arguments.jobs
    _refuse_no_processes(jobs)
    _refuse_file(arguments.out)
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        if arguments.prometheus_port is not None:
            gauges = Gauges(arguments.prometheus_port)
            stack.callback(gauges.close)
            print(f"gauges: {gauges.url}", file=sys.stderr)
            watchers.append(gauges)
        watchers.append(stack.enter_context(watching()))

        def watch(status: "Status") -> None:
            for watcher in watchers:
                watcher(status)

        failures = sweep(arguments.sweep, arguments.out, jobs=jobs, executor=arguments.executor, watcher=watch)
    for failure in failures:
        print(f"netsim sweep: cell {failure.cell} failed: {failure.problem}", file=sys.stderr)
    print(f"summary: {arguments.out / 'summary.csv'}")
    if (arguments.out / "index.html").exists():
        print(f"report: {arguments.out / 'index.html'}")
    return FAILED if failures else DONE


def _bench(arguments: argparse.Namespace) -> int:
    from netsim.bench.bench import bench, print_figures, write_figures

    if arguments.repeats < 1:
        raise InputError("command line", "--repeats", f"must be at least 1 ({arguments.repeats})", "use 1 or more")
    if arguments.out and arguments.out.is_dir():
        raise InputError("command line", "--out", f"is a folder ({arguments.out})", "name a file")
    figures = bench(arguments.repeats)
    print_figures(figures)
    if arguments.out:
        write_figures(figures, arguments.out)
    return FAILED if figures.unmeasured else DONE


def _compile(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from netsim.bench.compilation import compile_engines

    compile_engines(lambda name: print(f"netsim compile: {name}", file=sys.stderr, flush=True))
    return DONE


def _export(arguments: argparse.Namespace) -> int:
    from netsim.workload.chakra.export import write_chakra
    from netsim.workload.records import read_trace

    kind, folder = arguments.to[0], Path(arguments.to[1])
    if kind != "chakra":
        raise InputError("command line", "--to", f"no format is called {kind}", "write --to chakra DIR")
    _refuse_file(folder, "--to")
    trace = read_trace(arguments.trace)
    write_chakra(trace, folder)
    print(f"{len(trace.programs)} execution traces: {folder}")
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from netsim.workload.kineto.convert import import_kineto

    if arguments.kind != "kineto":
        raise InputError("command line", "FORMAT", f"no format is called {arguments.kind}", "write kineto")
    if arguments.out.is_dir():
        raise InputError("command line", "--out", f"is a folder ({arguments.out})", "name a file")
    converted = import_kineto(arguments.path, arguments.out)
    for notice in converted.notices:
        print(f"netsim import: {notice}", file=sys.stderr)
    print(f"{converted.records} collectives of {converted.ranks} ranks: {arguments.out}")
    return DONE


def _keys(arguments: argparse.Namespace) -> int:
    from netsim.keys.reference import run

    return run(arguments.prefix)


def _refuse_no_processes(jobs: int) -> None:
    if jobs < 1:
        raise InputError("command line", "--jobs", f"must be at least 1 ({jobs})", "use 1 or more")


def _refuse_file(folder: Path, option: str = "--out") -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError("command line", option, f"is a file ({folder})", "name a folder")


if __name__ == "__main__":
    raise SystemExit(main())
