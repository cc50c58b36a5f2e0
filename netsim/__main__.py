"""Command line: ``python -m netsim VERB``."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from netsim.errors import InputError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_ABOUT = "Predicts what a network does with the traffic of distributed training."
_COMPARE = """\
Simulates a workload on a fabric, once for each transport and seed of a scenario, and says how long each takes.

example:
  python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/a2a
  python -m netsim compare configs/scenarios/all_to_all_64.yaml topology.spines=4 'seeds=[0,1]' --out runs/a2a_4

A scenario is YAML; these keys matter most, [in brackets] what they are if absent:
  topology    {kind: leaf_spine, leaves: 8, spines: 8, hosts_per_leaf: 8, ranks_per_host: [1], host_rate: [100Gbps],
               fabric_rate: [100Gbps], intra_host_rate: [3600Gbps], link_delay: [500ns]}
  packet      {payload: [4000B], header: [0B]}
  nic         {scheduling: [round_robin] or sequential, destinations: [random] or rotated}
  workload    {kind: collective, op: all_to_all, bytes_per_rank: 4.096MB}, a rank's input buffer
              {kind: trace, path: collectives.jsonl, steps: [all] or a list}, path from the working directory
  transports  any of ecmp, ethereal, spray_round_robin, spray_random, ideal (flow level)
  seeds       a list; every transport runs once with each
Quantities carry their unit: ps ns us ms s; bps kbps Mbps Gbps Tbps; B KB MB GB (1000), KiB MiB GiB (1024).

written to DIR, whole or not at all:
  results.json            what every run was; times in ns, sizes in bytes
  links.csv, flows.csv    every link and flow of every run
  collectives.csv         every collective of every run: what it is, when its first rank came, when its last was done
  report.html             the same as a page; its pictures are in figures/ too: completion.svg, links.svg and, where a
                          workload has several collectives, operations.svg
The files but for wall_s and everything printed but for progress are the same for any number of processes.

exit status: 0 done, 1 failed, 2 wrong input, with one line on stderr that names file, field and remedy.
"""


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are wrong input: one line, not a usage text."""

    def error(self, message: str) -> NoReturn:
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
        return _compare(arguments)
    except InputError as error:
        return _refuse(arguments, error, str(error), WRONG_INPUT)
    except KeyboardInterrupt as error:
        return _refuse(arguments, error, "interrupted", INTERRUPTED)
    except Exception as error:
        return _refuse(arguments, error, f"{type(error).__name__}: {error}; use --debug to see where", FAILED)


def _refuse(arguments: argparse.Namespace, error: BaseException, problem: str, status: int) -> int:
    """Says in one line what went wrong."""
    if arguments.debug:
        traceback.print_exception(error)
    print(f"netsim {arguments.verb}: {' '.join(problem.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="netsim", description=_ABOUT)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compare = verbs.add_parser(
        "compare",
        help="every transport and seed of a scenario",
        description=_COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("scenario", type=Path, metavar="SCENARIO", help="a scenario, YAML")
    compare.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to it, by dotted key")
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the results go")
    compare.add_argument("--jobs", type=int, default=_cores(), metavar="N", help="processes (default: all cores)")
    compare.add_argument("--debug", action="store_true", help="show where an error arose")
    return parser


def _cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compare(arguments: argparse.Namespace) -> int:
    from netsim.report.comparison import write_report
    from netsim.report.terminal import print_table, watching
    from netsim.simulate import simulate

    if arguments.jobs < 1:
        raise InputError("command line", "--jobs", f"is no number of processes ({arguments.jobs})", "use 1 or more")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError("command line", "--out", f"is a file ({arguments.out})", "name a folder")
    with watching() as progress:
        results = simulate(arguments.scenario, overrides=arguments.overrides, jobs=arguments.jobs, progress=progress)
    results.write(arguments.out)
    write_report(results, arguments.out)
    print_table(results)
    print(f"report: {arguments.out / 'report.html'}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
