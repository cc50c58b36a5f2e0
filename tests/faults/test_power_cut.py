"""A power cut right behind a save: the checkpoint is on the disk, whole, though nothing older is left."""

from pathlib import Path

import pytest

from tests.faults.disk import block_device
from tests.multinode.namespaces import obstacle
from tests.ranks import run_ranks
from tests.trainer.checkpoint.test_flushed import configuration
from trainer.checkpoint.directory import complete_steps, step_folder
from trainer.checkpoint.intact import newest_apparently_intact

pytestmark = [pytest.mark.slow, pytest.mark.skipif(obstacle() is not None, reason=f"mounts a device: {obstacle()}")]
DEVICE_BYTES, SAVES = 100_000_000, (5, 10, 15)


def saved(_: int, world_size: int, root: Path, *, asynchronous: bool) -> None:
    from tests.trainer.training.migration.migrated import Run
    from trainer.checkpoint.saving import Checkpointer
    from trainer.distributed.groups import divide_ranks

    divide_ranks(1, 1)
    config = configuration(asynchronous=asynchronous)
    run = Run(config, world_size)
    saver = Checkpointer(root / "checkpoints", config, run.layout, run.engine, run.average)
    for step in SAVES:
        saver.save(step)
    saver.wait()


def saved_in_the_background(rank: int, world_size: int, root: Path) -> None:
    saved(rank, world_size, root, asynchronous=True)


def saved_meanwhile(rank: int, world_size: int, root: Path) -> None:
    saved(rank, world_size, root, asynchronous=False)


@pytest.mark.parametrize("save", [saved_meanwhile, saved_in_the_background])
def test_the_newest_checkpoint_outlives_a_power_cut(save: object, tmp_path: Path) -> None:
    root = tmp_path / "run"
    with block_device(root, DEVICE_BYTES) as device:
        (root / "metrics.jsonl").write_text('{"step": 15}\n')
        run_ranks(save, 2, root)  # pyright: ignore[reportArgumentType]
        (root / "unflushed").write_bytes(bytes(1000))
        device.restore(device.cut())
        assert not (root / "unflushed").exists() or not (root / "unflushed").stat().st_size, "it is a power cut"
        assert complete_steps(root / "checkpoints")[-1] == SAVES[-1], "those before it may be back"
        newest = newest_apparently_intact(root / "checkpoints", allow_rng_loss=False, read_bytes=1 << 30)
        assert newest == (step_folder(root / "checkpoints", SAVES[-1]), [])
        assert (root / "metrics.jsonl").read_text() == '{"step": 15}\n'
