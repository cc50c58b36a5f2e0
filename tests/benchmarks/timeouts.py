"""A crowd that sends to one host: python -m tests.benchmarks.timeouts --senders 4095.

Its round trips outgrow any fixed timeout, so that senders that do not wait longer send everything again and again. The
bar: with the defaults the last message arrives within 5 % of the lower bound, and 5 % of the packets go twice at most.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netsim.simulation.compare import run_one
from netsim.simulation.prepare import prepare
from netsim.simulation.results import Run
from netsim.simulation.scenario import read_scenario

CASES: dict[str, dict[str, Any]] = {
    "default (auto)": {},
    "1 ms, doubled": {"timeout": "1ms"},
    "1 ms, fixed": {"timeout": "1ms", "longest_timeout": "1ms"},
    "50 us, doubled": {"timeout": "50us"},
    "auto from 50 us on": {"shortest_timeout": "50us"},
}
LATEST, MOST_AGAIN = 1.05, 0.05


def crowd(folder: Path, senders: int, size_bytes: int, seed: int, recovery: dict[str, Any]) -> Run:
    """One run of the event engine, on a square leaf-spine fabric without oversubscription."""
    side = next(side for side in range(1, senders + 2) if side * side > senders)
    file = folder / "flows.csv"
    file.write_text(
        "src,dst,bytes,start_ns\n" + "".join(f"{rank},0,{size_bytes},0\n" for rank in range(1, senders + 1))
    )
    scenario = read_scenario(
        {
            "format": "flowfabric.scenario/1",
            "topology": {"kind": "leaf_spine", "leaves": side, "spines": side, "hosts_per_leaf": side},
            "workload": {"kind": "flows", "path": str(file)},
            "transports": ["spray_random"],
            "congestion": {"kind": "dctcp"},
            "recovery": {"kind": "selective", **recovery},
            "engine": "event",
            "seeds": [seed],
        }
    )
    return run_one(prepare(scenario, "scenario"), scenario.transports[0], seed)


def main() -> int:
    """Runs every case and prints a table; 1 if the defaults miss the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, default=1023, help="how many (default: 1023)")
    parser.add_argument("--bytes", type=int, default=100_000, help="of each message (default: 100000)")
    parser.add_argument("--seed", type=int, default=0, help="of the paths (default: 0)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], metavar="CASE", help="default: all")
    given = parser.parse_args()
    print(f"{'timeout':20} {'last, ms':>9} {'bound':>9} {'sent again':>11} {'CPU, s':>7}")
    missed = False
    with TemporaryDirectory() as folder:
        for name in given.cases:
            began = time.process_time()
            run = crowd(Path(folder), given.senders, given.bytes, given.seed, CASES[name])
            again = run.losses.retransmitted / run.packets
            times = f"{run.completion_ps / 10**9:9.2f} {run.bound_ps / 10**9:9.2f}"
            print(f"{name:20} {times} {again:11.1%} {time.process_time() - began:7.1f}", flush=True)
            missed |= not CASES[name] and (run.completion_ps > LATEST * run.bound_ps or again > MOST_AGAIN)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
