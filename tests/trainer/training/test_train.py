"""Whole runs on two ranks: killed and resumed, re-placed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moe.placement.placement import Placement
from moe.routing_trace import RoutingTrace
from tests.forked import ROOT, command
from tests.trainer.commands import DIGITS
from tests.trainer.runs import assert_equal_folders, timeless, torchrun

SETTINGS = (
    "model.dropout=0.1",
    "model.num_layers=2",
    "model.hidden=32",
    "moe.expert_hidden=32",
    "optim.steps=8",
    "optim.global_batch=32",
    "checkpoint.every=4",
    "checkpoint.keep=9",
    "evaluate.every=3",
    "sample.every=null",
    "observe.log_every=1",
    "trace.steps=[2,3,6,7]",
    "observe.profile={steps: [4, 5]}",
)


KILLED_RUN = "tests/trainer/training/killed_run.py"
SAVING = "ZeRO 2, while it saves in the background"
KILLED: dict[str, tuple[int, Any]] = {
    "ZeRO 1, in a step": (1, {"KILL_STEP": "6"}),
    SAVING: (2, {"KILL_STEP": "8", "KILL_SAVING": "1"}),
}


@pytest.fixture(scope="module", params=[pytest.param("ZeRO 1, in a step", marks=pytest.mark.slow), SAVING])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A straight run, and one whose rank 1 was killed before it was started again."""
    folder = tmp_path_factory.mktemp("runs")
    stage, when = KILLED[request.param]
    settings = (DIGITS, *SETTINGS, f"engine.zero_stage={stage}")
    straight = command("train", *settings, f"run.dir={folder / 'straight'}", ranks=2)
    assert straight.returncode == 0, straight.stderr
    saving = "KILL_SAVING" in when
    again = "train", *settings, f"checkpoint.asynchronous={saving}", f"run.dir={folder / 'killed'}"
    if saving:  # forked, which is sooner; the other has torchrun
        killed = command(*again, ranks=2, program=ROOT / KILLED_RUN, KILL_RANK="1", **when)
        assert killed.returncode != 0
    else:
        killed = torchrun(KILLED_RUN, *again, KILL_RANK="1", **when)
        assert killed.returncode == 1
        assert "Signal 9" in killed.stderr
    begun = folder / "killed" / "checkpoints" / "step_00000008"
    assert begun.exists() == saving
    resumed = command(*again, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 4" in resumed.stderr
    assert (f"skipped: {begun / 'COMPLETE'}: marker: is missing: the save did not end" in resumed.stderr) == saving
    return folder / "straight", folder / "killed"


def test_a_killed_run_ends_as_the_straight_one(runs: tuple[Path, Path]) -> None:
    straight, killed = runs
    for step in ("step_00000004", "step_00000008"):
        assert_equal_folders(straight / "checkpoints" / step, killed / "checkpoints" / step)
    assert timeless(straight / "metrics.jsonl") == timeless(killed / "metrics.jsonl")
    assert [step for step, _ in timeless(straight / "metrics.jsonl")] == list(range(1, 9))


def test_traces_are_cut_back_and_go_on(runs: tuple[Path, Path]) -> None:
    straight, killed = (run / "traces" for run in runs)
    one, other = (RoutingTrace.read(folder / "routing.npz") for folder in (straight, killed))
    assert one.header.model_copy(update={"config_sha256": None}) == other.header.model_copy(
        update={"config_sha256": None}
    )
    for name in ("expert_ids", "source_rank", "weights", "step", "micro", "sequence", "position"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    straight_records, killed_records = (
        [json.loads(line) for line in (folder / "collectives.jsonl").read_text().splitlines()[1:]]
        for folder in (straight, killed)
    )
    timed = ("gap_ns", "t_issue_ns", "t_done_ns")
    for one, other in zip(straight_records, killed_records, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}
    assert {record["step"] for record in straight_records} == {2, 3, 6, 7}


def test_every_rank_profiles_the_window_and_a_resumed_run_what_is_left_of_it(runs: tuple[Path, Path]) -> None:
    for run, steps in zip(runs, ({4, 5}, {5}), strict=True):
        paths = sorted((run / "profile").iterdir())
        assert [path.name for path in paths] == ["rank_00000.json", "rank_00001.json"]
        for path in paths:
            names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
            assert {f"step {step}" for step in steps} == {name for name in names if str(name).startswith("step ")}
            assert any("all_to_all" in str(name) or "alltoall" in str(name) for name in names)


def test_a_placement_moves_experts_and_not_the_losses(runs: tuple[Path, Path], tmp_path: Path) -> None:
    straight, _ = runs
    stage = f"engine.zero_stage={yaml.safe_load((straight / 'config.yaml').read_text())['engine']['zero_stage']}"
    layers = np.stack([np.random.default_rng(layer).permutation(8).reshape(2, 4) for layer in range(2)])
    contiguous = Placement.contiguous(2, 8, 2, 1).model_dump()
    Placement.model_validate({**contiguous, "rank_experts": layers.tolist()}).write(tmp_path / "placement.json")
    moved = tmp_path / "moved"
    (moved / "checkpoints").mkdir(parents=True)
    (moved / "checkpoints" / "step_00000004").symlink_to(straight / "checkpoints" / "step_00000004")
    placed = f"moe.placement={tmp_path / 'placement.json'}"
    result = command("train", DIGITS, *SETTINGS, stage, placed, f"run.dir={moved}", ranks=2)
    assert result.returncode == 0, result.stderr
    losses = [values["loss"] for step, values in timeless(moved / "metrics.jsonl") if step > 4]
    expected = [values["loss"] for step, values in timeless(straight / "metrics.jsonl") if step > 4]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-6)
    saved = Placement.read(moved / "checkpoints" / "step_00000008" / "placement.json")
    assert [list(map(list, layer)) for layer in saved.rank_experts] == layers.tolist()
