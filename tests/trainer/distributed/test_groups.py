"""Process groups: what they leave behind."""

from pathlib import Path

import torch
import torch.distributed as dist

from tests.ranks import run_ranks

TIMES = 4


def divide_and_unite(_rank: int, _world_size: int) -> list[tuple[int, int]]:
    """Process groups and threads of this process after each time."""
    from trainer.distributed.groups import divide_ranks, unite_ranks

    found = []
    for time in range(TIMES):
        divide_ranks(expert_parallel=1 + time % 2, tensor_parallel=1)
        dist.all_reduce(torch.zeros(1))
        unite_ranks()
        found.append((len(dist.distributed_c10d._world.pg_map), len(list(Path("/proc/self/task").iterdir()))))
    return found


def test_groups_that_were_made_in_vain_leave_nothing() -> None:
    for found in run_ranks(divide_and_unite, 2):
        assert {groups for groups, _ in found} == {1}
        assert len({threads for _, threads in found[1:]}) == 1, "the first time starts threads that serve all groups"
