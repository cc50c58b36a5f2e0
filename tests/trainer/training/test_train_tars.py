"""Training from WebDataset tars: killed in the middle of an epoch and started again, on 1, 2 and 4 ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import ROOT
from tests.trainer.data.tars import digit_tars
from tests.trainer.runs import timeless
from trainer.__main__ import main

STEPS, KILLED_IN = 20, 12
"""An epoch of 110 examples in steps of 16 is 6.9 steps long; the run is taken up after step 10, in its second epoch."""
SETTINGS = (
    "model.kind=dit",
    "model.hidden=16",
    "model.num_layers=1",
    f"optim.steps={STEPS}",
    "optim.global_batch=16",
    "checkpoint.every=5",
    "checkpoint.keep=9",
    "evaluate.every=10",
    "observe.log_every=1",
    "observe.tensorboard=false",
    "sample.every=null",
    "data_loading.workers=2",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    pattern = digit_tars(folder / "tars")
    main(["index-tars", pattern, "--out", str(folder / "index")])
    section = {"kind": "webdataset", "path": pattern, "index": str(folder / "index"), "size": 8, "channels": 1}
    data = {**section, "held_out": 10, "streams": 8, "shuffle": 4}
    (folder / "run.yaml").write_text(json.dumps({"run": {"dir": "x"}, "data": data, "model": {}, "optim": {}}))
    return folder / "run.yaml"


def run(config: Path, folder: Path, world_size: int, **environment: str) -> subprocess.CompletedProcess[str]:
    """Trains under torchrun, and records in a folder beside that of the run."""
    record = folder.with_name(f"{folder.name}_record")
    record.mkdir(parents=True, exist_ok=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world_size), "--standalone"]
    program = ["tests/trainer/training/recorded_run.py", "train", str(config), *SETTINGS, f"run.dir={folder}"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RECORD": str(record), **environment}
    return subprocess.run(
        [*launcher, *program], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False
    )


def seen(folder: Path, world_size: int) -> dict[int, list[int]]:
    """The examples of each step in the order of the ranks; a step that was taken twice saw the same ones both times."""
    steps: dict[int, list[int]] = {}
    for rank in range(world_size):
        own: dict[int, list[int]] = {}
        for line in (folder.with_name(f"{folder.name}_record") / f"rank_{rank}.jsonl").read_text().splitlines():
            record = json.loads(line)
            assert own.setdefault(record["step"], record["ids"]) == record["ids"]
        for step, ids in sorted(own.items()):
            steps.setdefault(step, []).extend(ids)
    return steps


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_sees_the_same_examples_on_1_2_and_4_ranks(config: Path, tmp_path: Path) -> None:
    orders = []
    for world_size in (1, 2, 4):
        straight, killed = tmp_path / f"straight_{world_size}", tmp_path / f"killed_{world_size}"
        result = run(config, straight, world_size)
        assert result.returncode == 0, result.stderr
        dying = run(config, killed, world_size, KILL_STEP=str(KILLED_IN), KILL_RANK=str(world_size - 1))
        assert "Signal 9" in dying.stderr
        result = run(config, killed, world_size)
        assert result.returncode == 0, result.stderr
        assert "resumes after step 10" in result.stderr
        weights = [load_file(path / "checkpoints/step_00000020/ema.safetensors") for path in (straight, killed)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert timeless(straight / "metrics.jsonl") == timeless(killed / "metrics.jsonl")
        orders += [seen(straight, world_size), seen(killed, world_size)]
    assert list(orders[0]) == list(range(1, STEPS + 1))
    assert all(order == orders[0] for order in orders)
    first_epoch = [number for step in range(1, 8) for number in orders[0][step]][:110]
    assert len(set(first_epoch)) == 110
