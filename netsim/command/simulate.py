"""compare and sweep: one scenario, and a grid of them."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from netsim.foundation.command import DONE, FAILED, WORD, Either, Request, Verb
from netsim.foundation.refusal import Refusal

if TYPE_CHECKING:
    from netsim.sweep.progress import Status, Watcher

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
              gpu_link_rate of leaf_spine and fat_tree are hosts of several adapters
  packet      {payload: [4000B], header: [0B]}
  nic         {scheduling: [round_robin] or sequential, destinations: [random] or rotated}
  workload    {kind: collective, op: all_to_all, bytes_per_rank: 4.096MB}, a rank's input buffer
              {kind: trace, path: collectives.jsonl, steps: [all] or a list, gaps: [null] or a trace of equal structure
               whose gaps of computation are taken, device: [null] or h100, h200, a100, b200, ... which computes the
               work of a trace without gaps, or measured.csv}
              {kind: model, layers: 32, hidden: 4096, experts: 64, top_k: 8, tokens: 4096, device: h100,
               division: {data: 64, expert: 8, tensor: 1, pipeline: 1}, sharded: [none], optimizer or full}
              {kind: flows, path: flows.csv}, {kind: matrix, path: file.cm}, {kind: chakra, path: folder},
              {kind: goal, path: file.goal}, {kind: simccl, path: ncclFlowModel_detailed_flows.csv},
              {kind: aicb, path: workload.txt, compute_scale: [1.0]}
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

Every cell is checked before anything runs. The same command again resumes where a sweep was stopped or killed: finished
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


def refuse_foreign(folder: Path, verb: str, mark: str, overwrite: bool, option: str = "--out") -> None:
    """Refuses an output folder that is a file, or has contents of another verb: none that fits the pattern `mark`."""
    if folder.exists() and not folder.is_dir():
        raise Refusal("command line", option, f"is a file ({folder})", "name a folder")
    if overwrite or not folder.exists() or any(folder.glob(mark)):
        return
    first = next(iter(sorted(path.name for path in folder.iterdir())), None)
    if first is not None:
        problem = f"{folder} was not written by {verb} and is not empty ({first})"
        raise Refusal("command line", option, problem, "name a new folder, or give --overwrite")


def _cores() -> int:
    """Cores that this process may use, or all cores where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(jobs: int | None) -> int:
    """Returns `jobs`, or the number of cores if None; refuses less than 1."""
    if jobs is not None and jobs < 1:
        raise Refusal("command line", "--jobs", f"must be at least 1 ({jobs})", "use 1 or more")
    return _cores() if jobs is None else jobs


class Compare(Request):
    """Options of ``compare``: a scenario, and a second trace or scenario to compare it with."""

    scenario: Annotated[Path, WORD, "SCENARIO"]
    """a scenario, YAML"""
    overrides: Annotated[tuple[str, ...], WORD, "KEY=VALUE"] = ()
    """changes to it, by dotted key"""
    out: Annotated[Path, "DIR"]
    """where the results go"""
    overwrite: bool = False
    """write into the folder although something else has written there"""
    jobs: Annotated[int | None, "N"] = None
    """cores: a process for each run, and threads of large runs where there are fewer (default: all)"""
    against: Annotated[str | None, "TRACE|KEY=VALUE"] = None
    """a second trace in place of the scenario's, or a second scenario"""
    device: Annotated[str | None, "NAME|TABLE"] = None
    """what computes where a workload has work and no gaps: a name, such as h100, or a table of measurements in CSV"""
    calibration: Annotated[str | None, "FILE"] = None
    """measured times of collectives inside hosts, as calibrate writes them, or h100: topology.calibration=FILE"""
    gaps: Literal["shared", "own"] = "shared"
    """shared (default): a second trace of equal structure takes the first one's gaps of computation"""


def _compare(request: Compare) -> int:
    from netsim.report.comparison import write_report
    from netsim.report.terminal import print_changes, print_table, watching
    from netsim.simulation.against import simulate_change, simulate_pair
    from netsim.simulation.compare import simulate

    jobs = _checked(request.jobs)
    refuse_foreign(request.out, "compare", "results.json", request.overwrite)
    with watching() as show:
        source, overrides = request.scenario, list(request.overrides)
        how = {"jobs": jobs, "progress": show}
        if request.device is not None:
            overrides.append(f"workload.device={request.device}")
        if request.calibration is not None:
            overrides.append(f"topology.calibration={request.calibration}")
        pair = None
        if request.against is None:
            results = simulate(source, overrides=overrides, **how)
        elif "=" in request.against and not Path(request.against).exists():
            pair = simulate_change(source, overrides, request.against, **how)
            results = pair.first
        else:
            pair = simulate_pair(source, overrides, Path(request.against), gaps=request.gaps, **how)
            results = pair.first
    for notice in results.notices:
        print(f"netsim compare: {notice}", file=sys.stderr)
    if request.calibration is not None and not results.measured:
        print(
            "netsim compare: no collective is of the kind and on the hosts that the calibration knows", file=sys.stderr
        )
    results.write(request.out)
    write_report(results, request.out, pair)
    print_table(results)
    if pair is not None:
        pair.second.write(request.out / "against")
        write_report(pair.second, request.out / "against")
        print_changes(pair)
    print(f"report: {request.out / 'report.html'}")
    return DONE


COMPARE = Verb(
    name="compare",
    summary="every transport and seed of a scenario",
    description=_COMPARE,
    request=Compare,
    run=_compare,
    following="python -m netsim compare {scenario} 'topology.failures=[{{switch: spine0}}]' --out {out}_failure",
)


class Sweep(Request):
    """Options of ``sweep``: a grid of scenarios, and the processes or the Dask cluster that simulate it."""

    sweep: Annotated[Path, WORD, "SWEEP"]
    """a sweep, YAML"""
    out: Annotated[Path, "DIR"]
    """where the results go"""
    overwrite: bool = False
    """write into the folder although something else has written there"""
    jobs: Annotated[int | None, "N", Either("who")] = None
    """local processes (default: all cores)"""
    executor: Annotated[str | None, "ADDRESS", Either("who")] = None
    """Dask scheduler, in place of local processes: tcp://scheduler:8786"""
    prometheus_port: Annotated[int | None, "PORT"] = None
    """serve metrics for Prometheus on 127.0.0.1 (0: a free port)"""


def _sweep(request: Sweep) -> int:
    from netsim.sweep.driver import sweep
    from netsim.sweep.progress import Gauges, watching

    jobs = _checked(request.jobs)
    refuse_foreign(request.out, "sweep", "cells", request.overwrite)
    with ExitStack() as stack:
        watchers: list[Watcher] = []
        if request.prometheus_port is not None:
            gauges = Gauges(request.prometheus_port)
            stack.callback(gauges.close)
            print(f"gauges: {gauges.url}", file=sys.stderr)
            watchers.append(gauges)
        watchers.append(stack.enter_context(watching()))

        def watch(status: "Status") -> None:
            for watcher in watchers:
                watcher(status)

        failures = sweep(request.sweep, request.out, jobs=jobs, executor=request.executor, watcher=watch)
    for failure in failures:
        print(f"netsim sweep: cell {failure.cell} failed: {failure.problem}", file=sys.stderr)
    print(f"summary: {request.out / 'summary.csv'}")
    if (request.out / "index.html").exists():
        print(f"report: {request.out / 'index.html'}")
    return FAILED if failures else DONE


SWEEP = Verb(
    name="sweep",
    summary="a grid of scenarios, resumable, on one machine or many",
    description=_SWEEP,
    request=Sweep,
    run=_sweep,
    following="python -m netsim compare configs/scenarios/all_to_all_64.yaml --out {out}_64",
)
