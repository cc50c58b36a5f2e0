"""Ratios of the engines on one case, whatever its size: python -m tests.benchmarks.engines --hosts-per-leaf 16.

`tests.benchmarks.engine_speed` measures the fixed cases; this says how a ratio changes with fabric and message.
"""

import argparse

from tests.benchmarks.engine_cases import Case, Shape, all_to_all, permutation
from tests.benchmarks.engine_speed import bench, print_figures

PATTERNS = {"all_to_all": all_to_all, "permutation": permutation}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=8)
    parser.add_argument("--hosts-per-leaf", type=int, default=8)
    parser.add_argument("--spines", type=int, default=8)
    parser.add_argument("--pattern", choices=PATTERNS, default="all_to_all")
    parser.add_argument("--packets", type=int, default=16, help="packets a message")
    parser.add_argument("--closed-loop", action="store_true", help="DCTCP, acknowledgements among the data")
    parser.add_argument("--pauses", action="store_true", help="priority flow control")
    every = ["simpy", "exact", "event", "windowed"]
    parser.add_argument("--engines", nargs="+", default=every, help="ratios are to the first")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    shape = Shape(given.leaves, given.hosts_per_leaf, given.spines)
    name = f"{given.pattern}, {given.leaves * given.hosts_per_leaf} hosts, {given.packets} packets"
    pattern = PATTERNS[given.pattern]
    print_figures(
        bench(
            given.repeats,
            [Case(name, shape, pattern, given.packets, tuple(given.engines), given.closed_loop, given.pauses)],
        )
    )


if __name__ == "__main__":
    main()
