"""A training step by the algorithms that NCCL takes, beside rings alone, and small sums at 1,024 ranks.

``python -m tests.benchmarks.steps --ranks 64 256`` writes the trace of configs/runs/dit_moe_64.yaml for each number of
ranks, groups of 64 of which share experts, and simulates it on a two-tier fabric. Exit status 1: a sum of 4 B among
1,024 ranks takes 150 us or more by NCCL's choice, or a step is slower by it than by rings.
"""

import argparse
import time
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netsim import simulate
from trainer.__main__ import main as trainer

RUN = "configs/runs/dit_moe_64.yaml"
MOST_US = 150.0
ALGORITHMS = {"rings": {"broadcast": "ring"}, "nccl": "nccl", "auto": "auto"}


def scenario(ranks: int, workload: dict[str, Any], arguments: argparse.Namespace, algorithms: object) -> dict[str, Any]:
    leaves = 1 << (isqrt(ranks).bit_length() - 1)
    hosts = ranks // leaves
    return {
        "format": "flowfabric.scenario/1",
        "topology": {"kind": "leaf_spine", "leaves": leaves, "spines": hosts, "hosts_per_leaf": hosts},
        "packet": {"payload": arguments.payload},
        "workload": workload,
        "algorithms": algorithms,
        "transports": [arguments.transport],
        "engine": arguments.engine,
        "seeds": [0],
    }


def small_sum(arguments: argparse.Namespace, algorithms: object, ranks: int = 1024) -> float:
    """Microseconds of an all-reduce of 4 B."""
    workload = {"kind": "collective", "op": "all_reduce", "bytes_per_rank": "4B"}
    return simulate(scenario(ranks, workload, arguments, algorithms)).runs[0].completion_ps / 1e6


def traced(ranks: int, folder: Path) -> Path:
    path = folder / f"{ranks}.jsonl"
    arguments = ["--world-size", str(ranks), "--ranks-per-node", "1", "--work", "--out", str(path)]
    batch = f"optim.global_batch={32 * ranks}"
    if trainer(["trace", RUN, batch, *arguments]):
        raise SystemExit(1)
    return path


def steps(ranks: Sequence[int], arguments: argparse.Namespace) -> bool:
    """Prints a step for each number of ranks; returns whether NCCL's choices are nowhere slower than rings."""
    sound = True
    with TemporaryDirectory() as folder:
        for number in ranks:
            path = traced(number, Path(folder))
            found = {}
            for name, algorithms in ALGORITHMS.items():
                workload = {"kind": "trace", "path": str(path), "device": arguments.device}
                workload = {key: value for key, value in workload.items() if value is not None}
                began = time.process_time()
                results = simulate(scenario(number, workload, arguments, algorithms))
                found[name] = results.runs[0].completion_ps / 1e6
                change = 100 * (found[name] / found["rings"] - 1)
                print(
                    f"{number:>6,} ranks  {name:6} {found[name]:>12,.1f} us {change:+7.2f} %   "
                    f"{results.runs[0].engine}, CPU {time.process_time() - began:.0f} s",
                    flush=True,
                )
            sound &= found["nccl"] <= found["rings"]
    return sound


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[64], help="of the steps (default: 64)")
    parser.add_argument("--payload", default="64KB", help="of a packet (default: 64KB)")
    parser.add_argument("--transport", default="spray_round_robin", help="(default: spray_round_robin)")
    parser.add_argument("--engine", default="auto", help="(default: auto)")
    parser.add_argument("--device", help="what computes, such as h100 (default: nothing does)")
    arguments = parser.parse_args()
    sums = {name: small_sum(arguments, algorithms) for name, algorithms in ALGORITHMS.items()}
    print("4 B among 1,024 ranks: " + ", ".join(f"{name} {us:,.1f} us" for name, us in sums.items()), flush=True)
    sound = steps(arguments.ranks, arguments)
    return 0 if sound and sums["nccl"] < MOST_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
