"""Power cuts while a run trains and saves: what was flushed is on the disk, whole, though nothing older is left."""

import os
import signal
import time
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from tests.faults.disk import block_device
from tests.multinode.namespaces import obstacle
from tests.ranks import run_ranks
from tests.trainer.checkpoint.test_flushed import configuration
from trainer.checkpoint.directory import complete_steps, step_of
from trainer.checkpoint.intact import newest_apparently_intact

pytestmark = [pytest.mark.slow, pytest.mark.skipif(obstacle() is not None, reason=f"mounts a device: {obstacle()}")]
DEVICE_BYTES, CUTS, RANKS = 50_000_000, 10, 2


def trained(rank: int, world_size: int, root: Path, outside: Path, asynchronous: bool) -> None:
    """Saves every step, keeps the newest checkpoint alone, and ends when there is a file `over`."""
    import torch.distributed as dist

    from tests.trainer.training.migration.migrated import Run
    from trainer.checkpoint.saving import Checkpointer
    from trainer.distributed.groups import divide_ranks

    divide_ranks(1, 1)
    config = configuration(asynchronous=asynchronous)
    run = Run(config, world_size)
    saver = Checkpointer(root / "checkpoints", config, run.layout, run.engine, run.average)
    (outside / f"rank_{rank}").write_text(str(os.getpid()))
    over, step = [False], 0
    while not over[0]:
        step += 1
        if rank == 0:
            with (root / "metrics.jsonl").open("a") as file:
                file.write(f"{step}\n")
        run.step(step)
        saver.save(step)
        over = [(outside / "over").exists()]
        dist.broadcast_object_list(over)
    saver.wait()


def wait_for(path: Path) -> str:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_every_cut_leaves_the_newest_checkpoint_that_was_flushed(asynchronous: bool, tmp_path: Path) -> None:
    root, outside, draw = tmp_path / "run", tmp_path / "outside", Random(f"cuts {asynchronous}")
    outside.mkdir()
    with block_device(root, DEVICE_BYTES) as device:
        training = Thread(target=run_ranks, args=(trained, RANKS, root, outside, asynchronous))
        training.start()
        pids = [int(wait_for(outside / f"rank_{rank}")) for rank in range(RANKS)]
        wait_for(root / "checkpoints" / "step_00000002" / "COMPLETE")
        cuts, last = [], 0
        for number in range(CUTS):
            while complete_steps(root / "checkpoints")[-1] <= last:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 0.3))
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            seen = complete_steps(root / "checkpoints")
            last = seen[-1]
            copy = device.cut().rename(tmp_path / f"{number}.img")
            cuts.append((seen[0] if len(seen) > 1 else seen[-1], copy))  # an older one goes when the newest is flushed
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        (outside / "over").touch()
        training.join()
        for flushed, copy in cuts:
            device.restore(copy)
            newest, _ = newest_apparently_intact(root / "checkpoints", allow_rng_loss=False, read_bytes=1 << 30)
            assert flushed <= step_of(newest) <= flushed + 1
            logged = [int(line) for line in (root / "metrics.jsonl").read_text().split("\n")[: step_of(newest)]]
            assert logged == list(range(1, step_of(newest) + 1)), "the figures of all its steps are there, too"
