"""netsim beside a build of htsim: python -m tests.benchmarks.htsim --binary PATH.

Both read the same matrices and topologies: fat trees of three tiers with links of 100 Gbps and 1 us, packets of
4086 + 64 B, queues of one bandwidth-delay product, trimming. htsim reports when a sender knows that its flow is done,
netsim when its last byte has arrived; the way back of its acknowledgement is added to ours. Times are of the last flow
and of the mean flow, CPU that of the run alone, without compilation. Without a binary there is nothing to compare.

The bar is the difference between the means of the last flow over the seeds; exit status 1 if a case is outside.
"""

import argparse
import re
import resource
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from netsim import simulate
from tests.benchmarks.htsim import cases
from tests.benchmarks.htsim.cases import Case

_FINISHED = re.compile(r"finished at ([0-9.]+)")
_ARGUMENTS = {
    "htsim_uec": "-sender_cc_only -sender_cc_algo nscc -load_balancing_algo reps",
    "htsim_roce": "-strat ecmp_host",
}
"""Arguments of the binaries that are known, besides those that every run gets."""
_CONGESTION = "{kind: nscc}"
_TRANSPORT = "{kind: reps, cache: 8, entropies: 64, every: 4, forgive_last_link: true}"


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


def of_binary(binary: Path, arguments: Sequence[str], files: Path, seed: int, limit_s: float) -> Taken:
    """A run of htsim.

    Raises:
        RuntimeError: It fails, takes too long, or ends no flow.
    """
    command = [str(binary), "-tm", str(files / "x.cm"), "-topo", str(files / "x.topo"), "-seed", str(seed)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [*command, "-end", "1000000", *arguments], cwd=files, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{binary.name} did not end in {limit_s:.0f} s") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ends = [float(found) for found in _FINISHED.findall(done.stdout)]
    if done.returncode or not ends:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"{binary.name} failed with status {done.returncode} and said: {said:.200}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(max(ends), mean(ends), len(ends), cpu_s)


def scenario(
    case: Case, files: Path, seed: int, congestion: str = _CONGESTION, transport: str = _TRANSPORT
) -> dict[str, Any]:
    """Our scenario of the same files."""
    acknowledged = f"{cases.mean_way_back_ps(case)}ps"
    return {
        "format": "flowfabric.scenario/1",
        "topology": {"kind": "htsim", "path": str(files / "x.topo"), "queue": f"{cases.queue_bytes()}B"},
        "packet": {"payload": f"{cases.PAYLOAD}B", "header": f"{cases.HEADER}B"},
        "workload": {"kind": "matrix", "path": str(files / "x.cm"), "acknowledged_after": acknowledged},
        "transports": [yaml.safe_load(transport)],
        "congestion": yaml.safe_load(congestion),
        "recovery": {"kind": "selective", "reordering": None},
        "flow_control": {"kind": "trim", "header": f"{cases.HEADER}B"},
        "acknowledgement": {"size": f"{cases.ACKNOWLEDGEMENT}B"},
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


def _row(case: Case, seeds: int, arguments: argparse.Namespace, extra: Sequence[str]) -> bool:
    """Runs and prints a case; returns whether it is within the bar."""
    theirs, ours = [], []
    with TemporaryDirectory() as folder:
        files = Path(folder)
        cases.write_topology(case, files / "x.topo")
        for seed in range(1, seeds + 1):
            flows = cases.write_matrix(case, seed, files / "x.cm")
            theirs.append(of_binary(arguments.binary, extra, files, seed, arguments.limit))
            content = scenario(case, files, seed, arguments.congestion, arguments.transport)
            ours.append(of_ours(case, content, arguments.overrides))
            if theirs[-1].flows < flows:
                print(f"{case.name}, seed {seed}: {arguments.binary.name} ended {theirs[-1].flows} of {flows} flows")
    last, mine = mean(taken.last_us for taken in theirs), mean(taken.last_us for taken in ours)
    middle = mean(taken.mean_us for taken in theirs), mean(taken.mean_us for taken in ours)
    cpu = sum(taken.cpu_s for taken in theirs), sum(taken.cpu_s for taken in ours)
    off = mine / last - 1
    numbers = f"{last:10.1f} {mine:10.1f} {off:+7.1%} {middle[0]:10.1f} {middle[1]:10.1f} {cpu[0]:8.2f} {cpu[1]:8.2f}"
    print(f"{case.name:22} {seeds:5} {numbers}", flush=True)
    return abs(off) <= arguments.bar / 100


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, help="your build, such as .../datacenter/htsim_uec")
    known = "; ".join(f"{name}: {given}" for name, given in _ARGUMENTS.items())
    parser.add_argument(
        "--arguments", help=f"further arguments of the binary, in one text (default by its name; {known})"
    )
    names = ["one", "outcast_incast", "permutation", "incast", "ring"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--hosts", type=int, default=128, help="of permutation and incast: 16, 128, 1024 or 8192")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of a flow; a ring has a tenth of it a round")
    parser.add_argument("--seeds", type=int, default=3, help="of the cases that are drawn (default: 3)")
    parser.add_argument("--congestion", default=_CONGESTION, help=f"ours, as in a scenario (default: {_CONGESTION})")
    parser.add_argument("--transport", default=_TRANSPORT, help=f"ours, as in a scenario (default: {_TRANSPORT})")
    parser.add_argument("--bar", type=float, default=3.0, help="largest difference, per cent (default: 3)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a run of the binary may take")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to our scenario, as of compare")
    return parser.parse_args()


def main() -> int:
    """Runs all cases; returns the exit status."""
    arguments = _arguments()
    if arguments.binary is None or not arguments.binary.is_file():
        where = f"there is no {arguments.binary}" if arguments.binary else "name one with --binary"
        print(f"skipped: no build of htsim to compare with ({where}); build github.com/ultraethernet/uet-htsim")
        return 0
    arguments.binary = arguments.binary.resolve()
    extra = shlex.split(
        _ARGUMENTS.get(arguments.binary.name, "") if arguments.arguments is None else arguments.arguments
    )
    with TemporaryDirectory() as folder:
        smallest = cases.one(4086)
        cases.write_topology(smallest, Path(folder) / "x.topo")
        cases.write_matrix(smallest, 0, Path(folder) / "x.cm")
        content = scenario(smallest, Path(folder), 0, arguments.congestion, arguments.transport)
        of_ours(smallest, content, arguments.overrides)  # compiles
    print(f"{arguments.binary.name} {' '.join(extra)}")
    print(f"{'':22} {'':5} {'last flow, us':^29} {'mean flow, us':^21} {'CPU, s':^17}")
    sides = f"{'htsim':>10} {'netsim':>10}"
    print(f"{'case':22} {'seeds':>5} {sides} {'':7} {sides} {'htsim':>8} {'netsim':>8}")
    within = True
    for case in _cases(arguments):
        drawn = case.name.startswith(("permutation", "incast"))
        try:
            within &= _row(case, arguments.seeds if drawn else 1, arguments, extra)
        except (RuntimeError, ValueError) as error:
            print(f"{case.name:22} {error}")
            within = False
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
