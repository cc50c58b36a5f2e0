"""CPU seconds and peak memory of `moe place`, end to end: python -m tests.benchmarks.place_at_size.

Two sizes: real, 64 experts x 26 layers on 1 x 8 ranks (the traces of a real mixture, joined), and large, 256 experts x
58 layers on 8 x 8 ranks, 20,000 tokens with eight choices each (made here: tokens about topics). The solver
`contiguous` searches nothing: what it takes is reading, counting, bound and report. Each case runs in a process of its
own and is stopped when it has used a given number of CPU seconds. Set OMP_NUM_THREADS=1 for times that do not depend on
who else uses the machine: idle threads of BLAS wait by spinning.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe.routing_trace import RoutingTrace
from tests.moe.traces import topic_trace

_REAL = Path("../shared/data/esft")


@dataclass(frozen=True)
class Size:
    """A trace and the ranks that its experts are placed on."""

    name: str
    nodes: int
    ranks_per_node: int
    path: Path


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", default=["coherent", "copies", "home", "hierarchical"])
    parser.add_argument("--solvers", nargs="+", default=["contiguous", "auto"])
    parser.add_argument("--sizes", nargs="+", default=["real", "large"], choices=["real", "large"])
    parser.add_argument("--limit-s", type=int, default=300, help="CPU seconds that one case may take (default 300)")
    parser.add_argument("--real", type=Path, default=_REAL, help=f"folder of the real traces (default {_REAL})")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further options of moe place, last")
    parser.add_argument("--out", type=Path, help="JSON file for all that is printed")
    given = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes(given.sizes, given.real, Path(folder)):
            for objective in given.objectives:
                for solver in given.solvers:
                    cases.append(place(size, objective, solver, given.limit_s, given.options))
                    print(told(cases[-1]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


def sizes(names: list[str], real: Path, folder: Path) -> list[Size]:
    """Write the traces that are asked for; the real one is left out, with a word, where its files are missing."""
    found = []
    if "real" in names:
        paths = sorted(real.glob("*.npz"))
        if paths:
            first, *others = (RoutingTrace.read(path) for path in paths)
            joined = RoutingTrace.concatenate([first, *(replace(other, header=first.header) for other in others)])
            joined.write(folder / "real.npz")
            found.append(Size("real", 1, 8, folder / "real.npz"))
        else:
            print(f"real: no traces in {real}", file=sys.stderr)
    if "large" in names:
        topic_trace(256, 58, 8, 20_000, seed=0, world_size=64).write(folder / "large.npz")
        found.append(Size("large", 8, 8, folder / "large.npz"))
    return found


def place(size: Size, objective: str, solver: str, limit_s: int, options: list[str]) -> dict[str, Any]:
    """Place in a process of its own; gives its CPU seconds, peak memory and the main numbers of its result."""
    out = size.path.with_suffix(".json")
    command = [sys.executable, "-m", "moe", "place", str(size.path), "--nodes", str(size.nodes)]
    command += ["--ranks-per-node", str(size.ranks_per_node), "--objective", objective, "--solver", solver]
    process = subprocess.Popen(
        [*command, "--out", str(out), *options],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    case: dict[str, Any] = {
        "size": size.name,
        "objective": objective,
        "solver": solver,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "exit": process.returncode,
    }
    if process.returncode == 0:
        numbers = json.loads(out.with_suffix(".report.json").read_text(encoding="utf-8"))
        case["saved"] = numbers["cost_per_token"]["saved"]
        case["certified_gap"] = numbers["cost_per_token"]["certified_gap"]
        case["busiest_rank_mean"] = numbers["traffic"]["placed"]["busiest_rank_mean"]
        case["page_bytes"] = out.with_suffix(".html").stat().st_size
    return case


def told(case: dict[str, Any]) -> str:
    """One line about a case."""
    line = (
        f"{case['size']:6} {case['objective']:12} {case['solver']:11} {case['cpu_s']:7.1f} s of CPU, "
        f"{case['peak_bytes'] / 1e6:6.0f} MB"
    )
    if case["exit"]:
        return f"{line}, stopped ({case['exit']})"
    gap = "unknown" if case["certified_gap"] is None else f"{case['certified_gap']:.1%}"
    return (
        f"{line}; saves {case['saved']:.1%}, gap {gap}, busiest rank {case['busiest_rank_mean']:.2f} x mean; page "
        f"{case['page_bytes'] / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
