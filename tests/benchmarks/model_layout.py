"""How long a step of a model takes to be laid out on 10,240 ranks, without being simulated.

    python -m tests.benchmarks.model_layout [--ranks 1280]

A dense model of 32 layers is divided by eight tensor ranks and eight stages, a mixture by eight expert ranks and eight
stages; both take eight microbatches. The dense model in shards (FSDP) has no stages: all ranks gather and scatter each
block, or those of one place in the hosts, beside eight tensor ranks. The latter take what NCCL does: PAT, here
halving_doubling. Where hosts have several ranks of a group NCCL takes a ring, which is refused: each block is 3 times
105 million messages, ten billion in all, so shards of all ranks take halving_doubling too.

The table shows seconds by the clock and of the processor, tasks and collectives. Schedules are part of it: hierarchical
ones of 1,280 ranks alone take 45 s more, since they are written message after message.
"""

import argparse
import resource
import time
from typing import Any

from netsim.collective.build import Schedules
from netsim.collective.config import OPERATIONS, Algorithms
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.topology.mapping import rank_map
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.workload import ModelWorkload
from netsim.workload.program import Program

SHARED = {"kind": "model", "layers": 32, "tokens": 4096, "heads": 64, "kv_heads": 8, "microbatches": 8}
SHARED |= {"sharded": "optimizer", "bucket_elements": 1_000_000_000, "device": "h100"}
DENSE = {"hidden": 8192, "feed_forward": 28_672, "gated": True}
MIXTURE = {"hidden": 4096, "feed_forward": 1792, "experts": 64, "top_k": 8}
SHARDS = DENSE | {"sharded": "full", "microbatches": 1}
GATHERS = dict.fromkeys(("all_gather", "reduce_scatter"), "halving_doubling")


def models(ranks: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """By name, the algorithms, and the shape for eight times so many ranks."""
    return {
        "dense": ({}, DENSE | {"division": {"data": ranks // 8, "tensor": 8, "pipeline": 8}}),
        "mixture": ({"all_reduce": "double_tree"}, MIXTURE | {"division": {"data": ranks, "expert": 8, "pipeline": 8}}),
        "shards": ({"all_reduce": "double_tree"} | GATHERS, SHARDS | {"division": {"data": 8 * ranks}}),
        "shards, tensor": (dict.fromkeys(OPERATIONS, "nccl"), SHARDS | {"division": {"data": ranks, "tensor": 8}}),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.model_layout")
    parser.add_argument("--ranks", type=int, default=1280, help="of a stage, a multiple of 32 (default: 1280)")
    ranks = parser.parse_args().ranks
    fabric = {"kind": "leaf_spine", "leaves": 32, "spines": 8, "hosts_per_leaf": ranks // 32, "ranks_per_host": 8}
    topology = LeafSpineConfig.model_validate(fabric).build()
    mapping = rank_map(topology, list(range(8 * ranks)))
    print(f"{'model':16}{'ranks':>8}{'clock':>9}{'processor':>11}{'tasks':>14}{'collectives':>13}{'peak':>9}")
    for name, (chosen, shape) in models(ranks).items():
        algorithms = Algorithms.model_validate(chosen)
        workload, program = ModelWorkload(ModelConfig.model_validate(SHARED | shape)), Program()
        clock, processor = time.monotonic(), time.process_time()
        workload.extend(program, range(8 * ranks), 0, Schedules(algorithms, mapping, name, topology))
        took = f"{time.monotonic() - clock:8.1f}s{time.process_time() - processor:10.1f}s"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{name:16}{8 * ranks:8,}{took}{len(program.tasks):14,}{len(program.spans):13,}{peak:7.1f}GB", flush=True)


if __name__ == "__main__":
    main()
