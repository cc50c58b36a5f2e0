"""netsim beside a build of htsim: python -m tests.benchmarks.htsim --binary PATH.

Both read the same matrices of fat trees of three tiers with links of 100 Gbps and 1 us; packets have 4,086 + 64 B.
htsim_uec runs NSCC with REPS and queues of one bandwidth-delay product that trim; htsim_roce runs PFC under ECMP, where
a permutation is left out unless asked for: hashes decide how long it takes (see tests.benchmarks.roce). Other binaries
get the arguments that you give.

htsim reports when a sender knows that its flow is done, netsim when its last byte has arrived; the way back of its
acknowledgement is added to ours. Times are of the last flow and of the mean flow, CPU that of the run alone, without
compilation. The bar is the difference between the means of the last flow over the seeds; exit status 1 if a case is
outside, 2 if there is no such binary.
"""

import argparse
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from netsim import simulate
from tests.benchmarks.htsim import cases
from tests.benchmarks.htsim.cases import Case

_FINISHED = re.compile(r"finished at ([0-9.]+)")
_CASES = ("one", "outcast_incast", "permutation", "incast", "ring")
_BUILD = """\
skipped: name a build of htsim with --binary. To make one:
  git clone https://github.com/ultraethernet/uet-htsim
  cmake -S uet-htsim/htsim/sim -B build && make -C build htsim_uec htsim_roce
  python -m tests.benchmarks.htsim --binary build/datacenter/htsim_uec"""


class Side(NamedTuple):
    """How a binary runs, and what ours does beside it.

    Args:
        fabric: Its arguments for the fabric; {hosts} is their number.
        arguments: Its other arguments.
        sections: Sections of our scenario.
        cases: What is compared unless cases are named.
    """

    fabric: str
    arguments: str
    sections: Mapping[str, Any]
    cases: Sequence[str] = _CASES


_ANSWERED = {"size": f"{cases.ACKNOWLEDGEMENT}B"}
UEC = Side(
    "-topo x.topo",
    "-sender_cc_only -sender_cc_algo nscc -load_balancing_algo reps",
    {
        "topology": {"queue": f"{cases.queue_bytes()}B"},
        "transports": [
            {"kind": "reps", "entropies": 64, "every": 4, "explore": 16, "freeze": "10ms", "forgive_last_link": True}
        ],
        "congestion": {"kind": "nscc", "marks": "departure"},
        "recovery": {"kind": "selective", "reordering": None},
        "flow_control": {"kind": "trim", "header": f"{cases.HEADER}B"},
        "acknowledgement": {**_ANSWERED, "lane": "priority"},
    },
)
ROCE = Side(
    "-nodes {hosts} -tiers 3 -linkspeed 100000 -hop_latency 1",
    f"-mtu {cases.PAYLOAD} -q 2000 -strat ecmp_host -paths 256",
    {
        "topology": {},
        "transports": ["ecmp"],
        "recovery": {"kind": "go_back_n", "timeout": "1s"},
        "flow_control": {"kind": "pfc", **cases.PAUSES},
        "acknowledgement": {**_ANSWERED, "lane": "data"},
    },
    tuple(name for name in _CASES if name != "permutation"),
)
SIDES = {"htsim_uec": UEC, "htsim_roce": ROCE}


class Taken(NamedTuple):
    """What a run took.

    Args:
        last_us: End of the last flow.
        mean_us: Mean end of the flows.
        flows: Flows that ended.
        cpu_s: CPU seconds.
    """

    last_us: float
    mean_us: float
    flows: int
    cpu_s: float


def of_binary(binary: Path, arguments: Sequence[str], files: Path, seed: int, end_us: int, limit_s: float) -> Taken:
    """A run of htsim, of at most `end_us` of simulated time, which some binaries simulate to its end.

    Raises:
        RuntimeError: It fails, takes too long, or ends no flow.
    """
    command = [str(binary), "-tm", "x.cm", "-seed", str(seed), "-end", str(end_us), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(command, cwd=files, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{binary.name} did not end in {limit_s:.0f} s; give it more with --limit") from None
    except OSError as error:
        raise RuntimeError(f"{binary} does not run: {error.strerror}") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ends = [float(found) for found in _FINISHED.findall(done.stdout)]
    if done.returncode or not ends:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"{binary.name} failed with status {done.returncode} and said: {said:.200}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(max(ends), mean(ends), len(ends), cpu_s)


def scenario(case: Case, files: Path, seed: int, side: Side = UEC) -> dict[str, Any]:
    """Our scenario of the same files."""
    acknowledged = f"{cases.mean_way_back_ps(case)}ps"
    return {
        "format": "flowfabric.scenario/1",
        **side.sections,
        "topology": {"kind": "htsim", "path": str(files / "x.topo"), **side.sections["topology"]},
        "packet": {"payload": f"{cases.PAYLOAD}B", "header": f"{cases.HEADER}B"},
        "workload": {"kind": "matrix", "path": str(files / "x.cm"), "acknowledged_after": acknowledged},
        "seeds": [seed],
    }


def of_ours(case: Case, content: dict[str, Any], overrides: Sequence[str]) -> Taken:
    """A run of netsim."""
    began = time.process_time()
    (run,) = simulate(content, overrides=overrides).runs
    cpu_s = time.process_time() - began
    flows = zip(*(run.flows[name].tolist() for name in ("src", "dst", "end_ps")), strict=True)
    ends = [(end_ps + cases.way_back_ps(case.hosts, src, dst)) / 1e6 for src, dst, end_ps in flows]
    return Taken(max(ends), mean(ends), len(ends), cpu_s)


def _cases(arguments: argparse.Namespace) -> list[Case]:
    size, hosts = arguments.bytes, arguments.hosts
    made = {
        "one": cases.one(size),
        "outcast_incast": cases.outcast_incast(size),
        "permutation": cases.permutation(hosts, size),
        "incast": cases.incast(hosts, size),
        "ring": cases.ring(16, size // 10),
    }
    return [made[name] for name in arguments.cases]


def _tell(text: str) -> None:
    """Shows on a terminal what is running; the next line takes its place."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _row(case: Case, seeds: int, arguments: argparse.Namespace) -> bool:
    """Runs and prints a case; returns whether it is within the bar."""
    theirs, ours, ended = [], [], ""
    given = shlex.split(f"{arguments.side.fabric} {arguments.arguments}".format(hosts=case.hosts))
    with TemporaryDirectory() as folder:
        files = Path(folder)
        cases.write_topology(case, files / "x.topo")
        for seed in range(1, seeds + 1):
            flows = cases.write_matrix(case, seed, files / "x.cm")
            _tell(f"{case.name}, seed {seed} of {seeds}: {arguments.binary.name}")
            end_us = cases.one_by_one_us(case, seed)
            theirs.append(of_binary(arguments.binary, given, files, seed, end_us, arguments.limit))
            _tell(f"{case.name}, seed {seed} of {seeds}: netsim")
            ours.append(of_ours(case, scenario(case, files, seed, arguments.side), arguments.overrides))
            if theirs[-1].flows < flows:
                ended = f"  htsim ended {theirs[-1].flows} of {flows} flows under seed {seed}"
    _tell("")
    last, mine = mean(taken.last_us for taken in theirs), mean(taken.last_us for taken in ours)
    middle = mean(taken.mean_us for taken in theirs), mean(taken.mean_us for taken in ours)
    cpu = sum(taken.cpu_s for taken in theirs), sum(taken.cpu_s for taken in ours)
    off, off_middle = mine / last - 1, middle[1] / middle[0] - 1
    outside = abs(off) > arguments.bar / 100 or bool(ended)
    print(
        f"{case.name:20} {seeds:5} {last:10,.1f} {mine:10,.1f} {off:+7.1%} {middle[0]:10,.1f} {middle[1]:10,.1f} "
        f"{off_middle:+7.1%} {cpu[0]:8.2f} {cpu[1]:8.2f}{ended or '  outside' * outside}",
        flush=True,
    )
    return not outside


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.htsim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--binary", type=Path, help="your build, such as build/datacenter/htsim_uec")
    known = "; ".join(f"{name}: {side.arguments}" for name, side in SIDES.items())
    parser.add_argument(
        "--arguments", help=f"arguments of the binary in one text, those of files and fabric aside ({known})"
    )
    parser.add_argument("--cases", nargs="+", choices=_CASES, help="what is compared (default: all that say much)")
    parser.add_argument("--hosts", type=int, default=128, help="of permutation and incast: 16, 128, 1024 or 8192")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of a flow; a ring has a tenth of it a round")
    parser.add_argument("--seeds", type=int, default=3, help="of the cases that are drawn (default: 3)")
    parser.add_argument("--congestion", help="ours, as in a scenario (htsim_uec: {kind: nscc}; htsim_roce: none)")
    parser.add_argument("--transport", help="ours, as in a scenario (htsim_uec: reps; htsim_roce: ecmp)")
    parser.add_argument("--bar", type=float, default=3.0, help="largest difference, per cent (default: 3)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a run of the binary may take")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to our scenario, as of compare")
    arguments = parser.parse_args()
    for name in ("seeds", "bytes"):
        if getattr(arguments, name) < 1:
            parser.error(f"argument --{name}: is {getattr(arguments, name)}; write at least 1")
    try:
        cases.ports_of(arguments.hosts)
    except ValueError as error:
        parser.error(f"argument --hosts: {error}")
    if arguments.binary is not None and not arguments.binary.is_file():
        parser.error(f"argument --binary: there is no file {arguments.binary}; name a build of htsim")
    return arguments


def _with_side(arguments: argparse.Namespace) -> None:
    """Adds what the binary's name stands for, unless it is given."""
    arguments.binary = arguments.binary.resolve()
    side = SIDES.get(arguments.binary.name, UEC._replace(arguments=""))
    sections = dict(side.sections)
    if arguments.congestion is not None:
        sections["congestion"] = yaml.safe_load(arguments.congestion)
    if arguments.transport is not None:
        sections["transports"] = [yaml.safe_load(arguments.transport)]
    arguments.side = side._replace(sections=sections)
    arguments.cases = arguments.cases or side.cases
    arguments.arguments = side.arguments if arguments.arguments is None else arguments.arguments


def main() -> int:
    """Runs all cases; returns the exit status."""
    arguments = _arguments()
    if arguments.binary is None:
        print(_BUILD)
        return 0
    _with_side(arguments)
    _tell("compiling netsim's engines")
    with TemporaryDirectory() as folder:
        smallest = cases.one(cases.PAYLOAD)
        cases.write_topology(smallest, Path(folder) / "x.topo")
        cases.write_matrix(smallest, 0, Path(folder) / "x.cm")
        of_ours(smallest, scenario(smallest, Path(folder), 0, arguments.side), arguments.overrides)
    _tell("")
    print(f"{arguments.binary.name} {arguments.side.fabric.format(hosts='HOSTS')} {arguments.arguments}")
    print(f"{'':20} {'':5} {'last flow, us':^29} {'mean flow, us':^29} {'CPU, s':^17}")
    sides = f"{'htsim':>10} {'netsim':>10} {'':7}"
    print(f"{'case':20} {'seeds':>5} {sides} {sides} {'htsim':>8} {'netsim':>8}")
    within = True
    for case in _cases(arguments):
        drawn = case.name.startswith(("permutation", "incast"))
        try:
            within &= _row(case, arguments.seeds if drawn else 1, arguments)
        except (RuntimeError, ValueError) as error:
            _tell("")
            print(f"{case.name:20} {error}")
            within = False
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
