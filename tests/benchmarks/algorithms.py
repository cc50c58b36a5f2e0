"""Chosen algorithms of collectives beside the best of all that are simulated.

``python -m tests.benchmarks.algorithms`` simulates every candidate of `auto` for sizes from 4 B to 1 GB, and says how
far the chosen one is from the fastest. Exit status 1: a choice is further than the bar.
"""

import argparse
import time
from collections.abc import Iterator

from netsim import simulate
from netsim.collective.fastest import estimates
from netsim.collective.group import Group, size_of
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.mapping import rank_map
from netsim.workload.collective import Collective, operation

FABRICS = {8: (2, 4, 4), 64: (8, 8, 8)}
"""Leaves, spines and hosts of a leaf, by ranks."""
SIZES = (4, 1000, 64_000, 1_000_000, 16_000_000, 256_000_000, 1_000_000_000)
OPS: tuple[Collective, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")


def measured(op: str, size_bytes: int, ranks: int, name: str, payload: int, engine: str) -> float:
    """Simulated microseconds."""
    leaves, spines, hosts = FABRICS[ranks]
    scenario = {
        "format": "flowfabric.scenario/1",
        "topology": {"kind": "leaf_spine", "leaves": leaves, "spines": spines, "hosts_per_leaf": hosts},
        "packet": {"payload": f"{payload}B"},
        "workload": {"kind": "collective", "op": op, "bytes_per_rank": f"{size_bytes}B"},
        "algorithms": {op: name},
        "transports": ["spray_round_robin"],
        "engine": engine,
        "seeds": [0],
    }
    return simulate(scenario).runs[0].completion_ps / 1e6


def rows(ranks: int, packets: int, engine: str) -> Iterator[tuple[str, int, dict[str, float], dict[str, float]]]:
    """Collective, size of a rank's buffer, and the simulated and estimated microseconds of each candidate."""
    leaves, spines, hosts = FABRICS[ranks]
    shape = {"kind": "leaf_spine", "leaves": leaves, "spines": spines, "hosts_per_leaf": hosts}
    fabric = LeafSpine(LeafSpineConfig.model_validate(shape))
    for op in OPS:
        for buffer in SIZES:
            size_bytes = max(1, buffer // ranks) if op == "all_gather" else buffer
            whole = size_of(operation(op, ranks, size_bytes))
            payload = max(4000, -(-whole // (ranks * packets)))
            group = Group(fabric, rank_map(fabric, range(ranks)), payload, 0)
            guessed = {name: ps / 1e6 for name, ps in estimates(op, group, whole).items()}
            yield op, whole, {name: measured(op, size_bytes, ranks, name, payload, engine) for name in guessed}, guessed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", choices=tuple(FABRICS), default=[8, 64])
    parser.add_argument("--packets", type=int, default=8, help="of a rank's share of a large buffer (default: 8)")
    parser.add_argument("--engine", default="auto", help="engine of the simulations (default: auto)")
    parser.add_argument("--bar", type=float, default=25.0, help="percent that a choice may be behind (default: 25)")
    arguments = parser.parse_args()
    missed = 0
    for ranks in arguments.ranks:
        print(f"{ranks} ranks; simulated us [estimate]")
        for op, size_bytes, simulated, guessed in rows(ranks, arguments.packets, arguments.engine):
            chosen, best = min(guessed, key=guessed.__getitem__), min(simulated, key=simulated.__getitem__)
            behind = 100 * (simulated[chosen] / simulated[best] - 1)
            missed += behind > arguments.bar
            all_of = ", ".join(f"{name} {us:,.1f} [{guessed[name]:,.1f}]" for name, us in simulated.items())
            print(f"{op:15} {size_bytes:>13,} B  {chosen:18} {behind:5.1f} % behind {best:18} {all_of}", flush=True)
    print(f"{missed} choices are more than {arguments.bar:g} % behind; CPU {time.process_time():.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
