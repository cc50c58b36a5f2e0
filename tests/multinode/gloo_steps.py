"""A rank that records steps of collectives; run by torchrun, one rank a host: see `tests.multinode.gloo`."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from moe.collective_trace import rank_path
from trainer.trace.context import phase
from trainer.trace.recorder import Recorder

STEPS = range(1, 6)
_WARM_UP = 2
_ALL_TO_ALL_ELEMENTS, _ALL_REDUCE_ELEMENTS = 2**20, 2**19


def main(folder: Path) -> None:
    """Runs and records the steps.

    Args:
        folder: Where the rank's records go.
    """
    dist.init_process_group("gloo")
    world = dist.group.WORLD
    assert world is not None
    recorder = Recorder(
        rank_path(folder, dist.get_rank()),
        steps=[step for step in STEPS if step > _WARM_UP],
        ranks_per_node=1,
        group_names={world.group_name: "data"},
    )
    tokens, gradients = torch.ones(_ALL_TO_ALL_ELEMENTS), torch.ones(_ALL_REDUCE_ELEMENTS)
    received = torch.empty_like(tokens)
    for step in STEPS:
        dist.barrier()
        with recorder.step(step):
            with phase("forward"):
                dist.all_to_all_single(received, tokens)
            with phase("backward"):
                dist.all_reduce(gradients)
    recorder.write()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
