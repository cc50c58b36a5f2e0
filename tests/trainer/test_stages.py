"""Configurations of several runs, one after the other."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from moe.files import FileError
from tests.forked import command
from tests.trainer.commands import contents, refused
from tests.trainer.runs import torchrun
from trainer.__main__ import main
from trainer.stages import PairsStage, TrainStage, load_stages

DOCUMENT: dict[str, Any] = {
    "run": {"dir": "unset"},
    "data": {"kind": "toy", "name": "moons", "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1},
    "optim": {"steps": 2, "global_batch": 4},
    "sample": {"every": None},
    "stages": [
        {"name": "teacher", "train": {}},
        {
            "name": "pairs",
            "pairs": {"run": "{run.dir}/teacher", "num": 20, "shard_examples": 8, "sampler": {"kind": "euler"}},
        },
        {
            "name": "reflow",
            "train": {
                "data": {"kind": "pairs", "path": "{run.dir}/pairs", "held_out": 4},
                "model": {"init_from": "{run.dir}/teacher"},
                "flow": {"coupling": {"kind": "paired"}},
                "optim": {"steps": 3},
            },
        },
    ],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "run": {"dir": str(folder / "run")}, **changes}))
    return path


def test_what_a_stage_does_not_say_is_what_the_file_says(tmp_path: Path) -> None:
    base = tmp_path / "run"
    teacher, pairs, reflow = load_stages(written(tmp_path), ["optim.steps=7", "optim.lr=0.5"])
    assert [stage.name for stage in (teacher, pairs, reflow)] == ["teacher", "pairs", "reflow"]
    assert isinstance(teacher, TrainStage)
    assert isinstance(pairs, PairsStage)
    assert isinstance(reflow, TrainStage)
    config = teacher.config()
    assert (config.run.dir, config.optim.steps, config.optim.lr) == (base / "teacher", 7, 0.5)
    assert (pairs.folder, pairs.request().run) == (base / "pairs", base / "teacher")
    assert reflow.document["optim"] == {"steps": 3, "global_batch": 4, "lr": 0.5}, "the stage's own settings win"
    assert reflow.document["data"] == {"kind": "pairs", "path": str(base / "pairs"), "held_out": 4}
    assert reflow.document["model"]["init_from"] == str(base / "teacher")
    assert reflow.awaited([teacher, pairs, reflow]) == [teacher, pairs]
    addressed = load_stages(written(tmp_path), ["stages.reflow.optim.steps=10", "stages.pairs.num=5"])
    assert addressed[2].document["optim"]["steps"] == 10
    assert addressed[1].document["num"] == 5


def test_a_file_without_stages_is_one_stage(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in DOCUMENT.items() if name != "stages"}))
    (only,) = load_stages(path, ["optim.steps=9"])
    assert isinstance(only, TrainStage)
    assert (only.name, only.config().optim.steps) == ("", 9)


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([], "stages: is no list of stages"),
        ([{"train": {}}], r"stages\.0: has no name"),
        ([{"name": "../a", "train": {}}], r"stages\.0: has no name that a folder can have \(\.\./a\)"),
        ([{"name": "a", "train": {}}, {"name": "a", "train": {}}], r"stages\.1: a stands there twice"),
        ([{"name": "a"}], r"stages\.0: says nothing to do"),
        ([{"name": "a", "train": {}, "pairs": {}}], r"stages\.0: says \['pairs', 'train'\] to do"),
        ([{"name": "a", "train": 3}], r"stages\.0: train is no section"),
    ],
)
def test_what_is_no_stage_is_refused(tmp_path: Path, stages: Any, problem: str) -> None:
    with pytest.raises(FileError, match=problem):
        load_stages(written(tmp_path, stages=stages))


def test_a_wrong_stage_is_refused_before_the_first_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert "there is no stage x" in refused(capsys, "train", path, "stages.x.optim.steps=1")
    assert "--stage: there is no stage x" in refused(capsys, "train", path, "--stage", "x")
    assert "stages.pairs.num: " in refused(capsys, "train", path, "stages.pairs.num=0")
    assert "stages.teacher: optim.lr: " in refused(capsys, "train", path, "optim.lr=-1")
    assert not (tmp_path / "run").exists()


def test_check_says_which_stages_wait_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(written(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "stage teacher (train)" in said
    assert "collectives of rank 0" in said
    assert "cannot be checked before stage teacher is finished" in said


def test_stages_run_in_order_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    path = str(written(tmp_path))
    first = command("train", path)
    assert first.returncode == 0, first.stderr
    assert "stage 3 of 3, reflow: begins" in first.stderr
    folder = tmp_path / "run"
    assert (folder / "reflow" / "checkpoints" / "step_00000003" / "COMPLETE").exists()
    before = contents(folder)
    again = command("train", path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("is finished") == 3
    assert contents(folder) == before


@pytest.mark.slow
def test_killed_stages_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """On two ranks: first killed while pairs are written, then while the student trains."""
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / "folder", checkpoint={"every": 2, "keep": 9}, optim={"steps": 4, "global_batch": 4})
    settings = "train", str(path), "stages.reflow.optim.steps=4"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed = torchrun("-m", "trainer", *settings, f"run.dir={straight}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    for stage, rank, step in (("pairs", "0", "2"), ("reflow", "1", "3")):
        when = {"KILL_STAGE": stage, "KILL_RANK": rank, "KILL_STEP": step}
        died = torchrun("tests/trainer/killed_stage.py", *settings, f"run.dir={killed}", **when)
        assert died.returncode == 1
        if stage == "pairs":
            assert not (killed / "pairs" / "index.json").exists()
            assert list((killed / "pairs").glob(".shard_00002*"))
    resumed = torchrun("-m", "trainer", *settings, f"run.dir={killed}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 2" in resumed.stderr
    assert contents(straight / "pairs") == contents(killed / "pairs")
    for stage in ("teacher", "reflow"):
        assert states(straight / stage) == states(killed / stage)


def states(run: Path) -> dict[str, bytes | None]:
    """What the checkpoints of a run hold, but for what names its folders."""
    naming = ("config.yaml", "COMPLETE")
    found = {name: held for name, held in contents(run / "checkpoints").items() if Path(name).name not in naming}
    assert {Path(name).name for name in found} >= {"step_00000002", "step_00000004", "ema.safetensors"}
    return found
