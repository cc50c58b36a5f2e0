"""A run on a folder with pictures that cannot be read: it goes on, says so, and resumes as the same run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import command
from tests.trainer.commands import trained
from tests.trainer.data.pictures import folder
from tests.trainer.runs import timeless
from trainer.__main__ import main

SETTINGS = (
    "model.kind=dit",
    "model.hidden=16",
    "model.num_layers=1",
    "optim.steps=6",
    "optim.global_batch=8",
    "checkpoint.every=3",
    "checkpoint.keep=9",
    "evaluate.every=3",
    "observe.log_every=1",
    "observe.tensorboard=false",
    "sample.every=6",
    "sample.per_class=2",
    "sample.sampler={kind: euler, steps: 2}",
    "data_loading.max_bad_share=0.2",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The pictures, a straight run, and one taken up after step 3, in the middle of the first epoch but one."""
    path = tmp_path_factory.mktemp("runs")
    pictures = folder(path / "images", per_class=12)
    for number in (2, 7):
        (pictures / "cat" / f"{number:03d}.png").write_text("a letter")
    section = {
        "kind": "image_folder",
        "path": str(pictures),
        "size": 8,
        "channels": 1,
        "held_out": 4,
        "augment": {"flip": 0.5, "crop": 2},
    }
    config = path / "run.yaml"
    config.write_text(json.dumps({"run": {"dir": "x"}, "data": section, "model": {}, "optim": {}}))
    straight = trained(path / "straight", str(config), *SETTINGS)
    resumed = path / "resumed"
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step_00000006")
    return pictures, straight, trained(resumed, str(config), *SETTINGS)


def test_the_resumed_run_is_the_straight_one(runs: tuple[Path, Path, Path]) -> None:
    _, straight, resumed = runs
    one, other = (load_file(run / "checkpoints" / "step_00000006" / "ema.safetensors") for run in (straight, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert timeless(straight / "metrics.jsonl") == timeless(resumed / "metrics.jsonl")
    assert (straight / "bad_samples.txt").read_text() == (resumed / "bad_samples.txt").read_text()


def test_bad_pictures_are_counted_and_listed(runs: tuple[Path, Path, Path]) -> None:
    pictures, straight, _ = runs
    counts = [values["bad_samples"] for _, values in timeless(straight / "metrics.jsonl")]
    assert counts == sorted(counts)
    assert counts[-1] == 2, "both splits have been seen whole"
    listed = [line.split("\t")[1] for line in (straight / "bad_samples.txt").read_text().splitlines()]
    assert sorted(line.split(": ")[0] for line in listed) == [str(pictures / "cat" / f"{n:03d}.png") for n in (2, 7)]


def test_sampling_needs_no_pictures(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    pictures, straight, _ = runs
    assert (straight / "samples" / "step_00000006.png").exists()
    pictures.rename(pictures.with_name("moved"))
    try:
        assert main(["sample", str(straight), "--num", "4", "--out", str(tmp_path / "grid.png")]) == 0
    finally:
        pictures.with_name("moved").rename(pictures)
    assert (tmp_path / "grid.png").exists()


def test_a_run_with_too_many_bad_pictures_fails_in_a_line(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, straight, _ = runs
    changes = f"run.dir={tmp_path / 'run'}", "data_loading.max_bad_share=0.05"
    result = command("train", str(straight / "config.yaml"), *changes)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("trainer train: data_loading.max_bad_share: 2 of 2")
    assert "a letter" not in last
    assert ".png: is no picture of a format that is read" in last
