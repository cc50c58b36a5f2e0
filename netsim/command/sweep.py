"""sweep: a grid of scenarios."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from netsim.command.options import add_overwrite, cores, refuse_foreign, refuse_no_processes
from netsim.command.status import DONE, FAILED
from netsim.command.verb import Verb

if TYPE_CHECKING:
    from netsim.observe.status import Status, Watcher

_ABOUT = """\
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep, YAML")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    add_overwrite(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--jobs", type=int, metavar="N", help="local processes (default: all cores)")
    who.add_argument(
        "--executor", metavar="ADDRESS", help="Dask scheduler, in place of local processes: tcp://scheduler:8786"
    )
    parser.add_argument(
        "--prometheus-port", type=int, metavar="PORT", help="serve metrics for Prometheus on 127.0.0.1 (0: a free port)"
    )


def _run(arguments: argparse.Namespace) -> int:
    from netsim.observe.prometheus import Gauges
    from netsim.observe.terminal import watching
    from netsim.sweep import sweep

    jobs = cores() if arguments.jobs is None else arguments.jobs
    refuse_no_processes(jobs)
    refuse_foreign(arguments.out, "sweep", "cells", arguments.overwrite)
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


SWEEP = Verb("sweep", "a grid of scenarios, resumable, on one machine or many", _ABOUT, _add_arguments, _run)
