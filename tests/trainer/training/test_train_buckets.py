"""Runs on pictures of several shapes: two ranks train as one, a resumed run is the straight one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.forked import command
from tests.trainer.data.pictures import picture
from tests.trainer.runs import timeless

SETTINGS = (
    "model.hidden=16",
    "model.num_layers=2",
    "model.num_heads=2",
    "optim.steps=8",
    "optim.global_batch=8",
    "optim.micro_batch=2",
    "checkpoint.every=4",
    "checkpoint.keep=9",
    "evaluate.every=4",
    "observe.log_every=1",
    "observe.tensorboard=false",
    "sample.every=8",
    "sample.per_class=2",
    "sample.sampler={kind: euler, steps: 2}",
)
MIXTURE = "moe={num_experts: 4, top_k: 1, expert_hidden: 16, router: {kind: sparse_ot}, dispatch: "
NETWORKS = {"dense": (), "home": (f"{MIXTURE}home}}", "parallel.expert=2"), "capped": (f"{MIXTURE}capped}}",)}
SIZES = {"square": (9, 9), "wide": (20, 10), "tall": (8, 16)}


def run(folder: Path, name: str, *settings: str, ranks: int | None = None) -> Path:
    words = "train", str(folder / "run.yaml"), *SETTINGS, *settings, f"run.dir={folder / name}"
    result = command(*words, ranks=ranks)
    assert result.returncode == 0, result.stderr
    return folder / name


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buckets")
    for label, kind in enumerate(("cat", "dog")):
        for number in range(12):
            size = list(SIZES.values())[0 if number < 6 else 1 + number % 2]
            picture(folder / "pictures" / kind / f"{number:02d}.png", 100 * label + number, size)
    buckets = [[8, 8], [6, 12], [12, 6]]
    section = {"kind": "image_folder", "path": str(folder / "pictures"), "buckets": buckets, "held_out": 7}
    section["augment"] = {"flip": 0.5, "crop": 1}
    (folder / "run.yaml").write_text(
        json.dumps({"run": {"dir": "x"}, "data": section, "model": {"kind": "dit"}, "optim": {}})
    )
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step_00000008" / "ema.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_two_ranks_train_as_one_and_a_resumed_run_is_the_straight_one(pictures: Path, network: str) -> None:
    own = NETWORKS[network]
    two = run(pictures, f"{network}_2", *own, ranks=2)
    resumed = pictures / f"{network}_resumed"
    shutil.copytree(two, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step_00000008")
    run(pictures, f"{network}_resumed", *own, ranks=2)
    straight, again = weights(two), weights(resumed)
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    assert timeless(two / "metrics.jsonl") == timeless(resumed / "metrics.jsonl")
    for name, size in (("8x8", (8, 8)), ("6x12", (6, 12)), ("12x6", (12, 6))):
        with Image.open(two / "samples" / f"step_00000008_{name}.png") as grid:
            scale = 64 // max(size)
            assert grid.width == 2 * size[1] * scale + 3 * max(1, scale // 4)
    if network == "dense":  # limits of a router are those of a rank's tokens
        one = run(pictures, f"{network}_1", *own)
        alone = weights(one)
        for name, values in straight.items():
            torch.testing.assert_close(values, alone[name], rtol=1e-4, atol=1e-6)
        for (step, values), (_, others) in zip(
            timeless(two / "metrics.jsonl"), timeless(one / "metrics.jsonl"), strict=True
        ):
            for figure in {"loss", "held_out_loss"} & values.keys():
                assert values[figure] == pytest.approx(others[figure], rel=1e-5), step
