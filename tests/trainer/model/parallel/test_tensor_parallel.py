"""Runs whose blocks are divided over ranks, against the same runs on one rank."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.forked import LAUNCHED, command
from tests.ranks import run_ranks
from tests.trainer.commands import refused
from tests.trainer.parallel_runs import CLIP_NORM, Division, train
from trainer.__main__ import main

STEPS = 2
HALVES = {"precision": "bf16"}
DIVISIONS = {
    "maps, tensor 2 x data 2, ZeRO 3": Division("dit told of maps", tensor=2, engine={"zero_stage": 3}),
    "transitions, tensor 2 x data 2, ZeRO 1": Division("transition_dit", tensor=2, engine={"zero_stage": 1}),
    "dit, tensor 4, ZeRO 2": Division("dit", tensor=4, engine={"zero_stage": 2}),
    "gpt, tensor 2 x data 2, ZeRO 2": Division("gpt", tensor=2, engine={"zero_stage": 2}),
    "dit, tensor 2 x data 2, FSDP2": Division("dit", tensor=2, engine={"kind": "fsdp"}),
    "gpt, tensor 4, ZeRO 0": Division("gpt", tensor=4, engine={"zero_stage": 0}),
    "gpt, tensor 2 x data 2, ZeRO 2, computed twice": Division(
        "gpt", tensor=2, engine={"zero_stage": 2, "activation_checkpointing": True}
    ),
    "dit, tensor 2 x data 2, bf16": Division("dit", tensor=2, engine=HALVES),
}
"""Every network, two of them by 2 and by 4 ranks, every engine, both precisions, and a second pass."""
ALONE = {
    "dit": Division("dit"),
    "dit told of maps": Division("dit told of maps"),
    "transition_dit": Division("transition_dit"),
    "gpt": Division("gpt"),
    "dit, bf16": Division("dit", engine=HALVES),
}


def train_all(rank: int, world_size: int, folder: str, divisions: dict[str, Division]) -> dict[str, Any]:
    return {
        name: train(rank, world_size, division.config(Path(folder) / f"{world_size} {name}", STEPS))
        for name, division in divisions.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, Any]:
    """What a run on one rank found."""
    return run_ranks(train_all, 1, folder, ALONE)[0]


@pytest.fixture(scope="module")
def divided(folder: str) -> dict[str, list[Any]]:
    """What each rank of a divided run found."""
    ranks = run_ranks(train_all, 4, folder, DIVISIONS)
    return {name: [rank[name] for rank in ranks] for name in DIVISIONS}


@pytest.mark.parametrize("name", [name for name in DIVISIONS if "bf16" not in name])
def test_a_divided_run_equals_that_of_one_rank(alone: Any, divided: Any, name: str) -> None:
    figures, weights = alone[DIVISIONS[name].kind]
    assert min(values["grad_norm"] for values in figures) > CLIP_NORM, "the gradient was never clipped"
    for found, found_weights in divided[name]:
        for values, expected in zip(found, figures, strict=True):
            assert values == pytest.approx(expected, rel=1e-4)
        assert found_weights.keys() == weights.keys()
        for parameter, value in found_weights.items():
            torch.testing.assert_close(value, weights[parameter], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in DIVISIONS if "bf16" in name])
def test_in_bf16_a_divided_run_is_as_near_to_that_of_one_rank_as_its_digits_are(
    alone: Any, divided: Any, name: str
) -> None:
    kind = DIVISIONS[name].kind
    figures, weights = alone[f"{kind}, bf16"]
    exact, exact_weights = alone[kind]
    assert figures != exact, "nothing was rounded"
    for found, found_weights in divided[name]:
        for values, expected in zip(found, figures, strict=True):
            assert values == pytest.approx(expected, rel=3e-2)
        for parameter, value in weights.items():
            # The median: AdamW makes a whole step of the rounding of a gradient that is nearly zero.
            rounding = (value - exact_weights[parameter]).abs().median()
            assert (found_weights[parameter] - value).abs().median() <= 3 * rounding + 1e-6, parameter


@pytest.mark.parametrize("name", [name for name in DIVISIONS if "computed twice" in name])
def test_a_second_pass_on_divided_blocks_changes_no_bit(divided: Any, name: str) -> None:
    ways = divided[name], divided[name.removesuffix(", computed twice")]
    for (twice, twice_weights), (once, once_weights) in zip(*ways, strict=True):
        assert twice == once
        for parameter, value in once_weights.items():
            assert torch.equal(twice_weights[parameter], value), parameter


@pytest.mark.parametrize(
    "name", [name for name, run in DIVISIONS.items() if "bf16" not in name and "maps" not in run.kind]
)
def test_a_divided_run_draws_what_one_rank_draws(alone: Any, divided: Any, folder: str, name: str) -> None:
    kind = DIVISIONS[name].kind
    assert alone[kind]
    assert divided[name]
    one, several = (Path(folder) / run / "samples" for run in (f"1 {kind}", f"4 {name}"))
    if kind == "gpt":
        text = (one / f"step_{STEPS:08d}.txt").read_bytes()
        assert len(text) > 20
        assert (several / f"step_{STEPS:08d}.txt").read_bytes() == text
    else:
        assert_same_picture(*(run / f"step_{STEPS:08d}.png" for run in (one, several)))


def assert_same_picture(one: Path, other: Path) -> None:
    """But for one of 255 shades, which a rounding may tip."""
    pixels, others = (np.asarray(Image.open(path)).astype(int) for path in (one, other))
    assert pixels.std() > 10, "there is something to see"
    np.testing.assert_allclose(others, pixels, atol=1)


def test_a_divided_run_is_sampled_as_that_of_one_rank(
    alone: Any, divided: Any, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = "dit", "dit, tensor 4, ZeRO 2"
    assert alone[runs[0]]
    assert divided[runs[1]]
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    grids = tmp_path / "one.png", tmp_path / "several.png"
    for run, grid in zip((f"1 {runs[0]}", f"4 {runs[1]}"), grids, strict=True):
        assert main(["sample", str(Path(folder) / run), "--num", "10", "--out", str(grid)]) == 0
    assert_same_picture(*grids)


def test_a_divided_run_writes_on_one_rank_and_on_its_own(
    alone: Any,
    divided: Any,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert alone["gpt"]
    assert divided["gpt, tensor 2 x data 2, ZeRO 2"]
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    run, texts = Path(folder) / "4 gpt, tensor 2 x data 2, ZeRO 2", [tmp_path / name for name in ("a", "b", "c")]
    options = ["--num-bytes", "10", "--prompt", "for ", "--out"]
    assert main(["generate", str(Path(folder) / "1 gpt"), *options, str(texts[0])]) == 0
    assert main(["generate", str(run), *options, str(texts[1])]) == 0
    result = command("generate", str(run), *options, str(texts[2]), ranks=2)
    assert result.returncode == 0, result.stderr
    assert len(texts[0].read_bytes()) == 14
    assert {path.read_bytes() for path in texts} == {texts[0].read_bytes()}
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert "3 do not share the network as the run's 2 did" in refused(capsys, "generate", run, *options, tmp_path / "d")
