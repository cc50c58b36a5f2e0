"""Whole runs under torchrun: killed and resumed, re-placed, refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from moe.placement.placement import Placement
from tests.trainer.test_checkpoint import assert_equal_tensors
from trainer.observe.metrics import read_metrics

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "model.dropout=0.1",
    "model.num_layers=2",
    "model.hidden=32",
    "moe.expert_hidden=32",
    "optim.steps=20",
    "optim.global_batch=32",
    "checkpoint.every=10",
    "checkpoint.keep=9",
    "evaluate.every=5",
    "sample.every=null",
    "observe.log_every=1",
    "trace.steps=[8,9,14,15]",
]


def torchrun(*program: str, run_dir: Path, overrides: tuple[str, ...] = (), **environment: str) -> Any:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = ["train", "configs/runs/digits_moe.yaml", *SETTINGS, f"run.dir={run_dir}", *overrides]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [*command, *program, *arguments],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def timeless(path: Path) -> list[tuple[int, dict[str, float]]]:
    return [
        (record.step, {name: value for name, value in record.values.items() if not name.startswith("time.")})
        for record in read_metrics(path)
    ]


def assert_equal_folders(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name in names:
        if name.suffix == ".pt":
            first, second = (torch.load(folder / name, weights_only=False) for folder in (one, other))
            assert_equal_tensors(first, second, str(name))
        elif name.name != "config.yaml":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module", params=[1, 2], ids=["ZeRO 1", "ZeRO 2"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A straight run, and one whose rank 1 was killed in step 13 before it was started again."""
    folder = tmp_path_factory.mktemp("runs")
    stage = (f"engine.zero_stage={request.param}",)
    straight = torchrun("-m", "trainer", run_dir=folder / "straight", overrides=stage)
    assert straight.returncode == 0, straight.stderr
    killed = torchrun(
        "tests/trainer/killed_run.py", run_dir=folder / "killed", overrides=stage, KILL_RANK="1", KILL_STEP="13"
    )
    assert killed.returncode == 1
    assert "Signal 9" in killed.stderr
    again = torchrun("-m", "trainer", run_dir=folder / "killed", overrides=stage)
    assert again.returncode == 0, again.stderr
    assert "resumes after step 10" in again.stderr
    return folder / "straight", folder / "killed"


def test_a_killed_run_ends_as_the_straight_one(runs: tuple[Path, Path]) -> None:
    straight, killed = runs
    for step in ("step_00000010", "step_00000020"):
        assert_equal_folders(straight / "checkpoints" / step, killed / "checkpoints" / step)
    assert timeless(straight / "metrics.jsonl") == timeless(killed / "metrics.jsonl")
    assert [step for step, _ in timeless(straight / "metrics.jsonl")] == list(range(1, 21))


def test_traces_are_cut_back_and_go_on(runs: tuple[Path, Path]) -> None:
    straight, killed = (run / "traces" for run in runs)
    assert (straight / "routing.npz").read_bytes() == (killed / "routing.npz").read_bytes()
    straight_records, killed_records = (
        [json.loads(line) for line in (folder / "collectives.jsonl").read_text().splitlines()[1:]]
        for folder in (straight, killed)
    )
    timed = ("gap_ns", "t_issue_ns", "t_done_ns")
    for one, other in zip(straight_records, killed_records, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert {record["step"] for record in straight_records} == {8, 9, 14, 15}


def test_a_placement_moves_experts_and_not_the_losses(runs: tuple[Path, Path], tmp_path: Path) -> None:
    straight, _ = runs
    stage = f"engine.zero_stage={yaml.safe_load((straight / 'config.yaml').read_text())['engine']['zero_stage']}"
    layers = np.stack([np.random.default_rng(layer).permutation(8).reshape(2, 4) for layer in range(2)])
    contiguous = Placement.contiguous(2, 8, 2, 1).model_dump()
    Placement.model_validate({**contiguous, "rank_experts": layers.tolist()}).write(tmp_path / "placement.json")
    moved = tmp_path / "moved"
    (moved / "checkpoints").mkdir(parents=True)
    (moved / "checkpoints" / "step_00000010").symlink_to(straight / "checkpoints" / "step_00000010")
    result = torchrun("-m", "trainer", run_dir=moved, overrides=(stage, f"moe.placement={tmp_path / 'placement.json'}"))
    assert result.returncode == 0, result.stderr
    losses = [values["loss"] for step, values in timeless(moved / "metrics.jsonl") if step > 10]
    expected = [values["loss"] for step, values in timeless(straight / "metrics.jsonl") if step > 10]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-6)
    saved = Placement.read(moved / "checkpoints" / "step_00000020" / "placement.json")
    assert [list(map(list, layer)) for layer in saved.rank_experts] == layers.tolist()
