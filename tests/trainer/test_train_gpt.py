"""A language model under torchrun: killed and resumed, its text, and the same losses in every dispatch mode."""

from pathlib import Path

import numpy as np
import pytest

from tests.trainer.commands import GPT
from tests.trainer.runs import assert_equal_folders, timeless, torchrun
from trainer.__main__ import main

SETTINGS = (
    GPT,
    "model.dropout=0.1",
    "model.hidden=32",
    "model.num_layers=2",
    "model.num_heads=4",
    "moe.expert_hidden=32",
    "data.context=32",
    "data.held_out=2000",
    "data.max_bytes=20000",
    "optim.steps=6",
    "optim.global_batch=8",
    "optim.micro_batch=2",
    "optim.warmup_steps=0",
    "checkpoint.every=3",
    "evaluate.every=2",
    "sample={every: 3, prompts: ['def ', 'import '], num_bytes: 20}",
    "observe.log_every=1",
    "trace.steps=[2, 3, 5, 6]",
)


def run(folder: Path, *overrides: str) -> Path:
    result = torchrun("-m", "trainer", "train", *SETTINGS, *overrides, f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module", params=["home", "coherent"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A straight run, and one whose rank 1 was killed in step 5 before it was started again."""
    folder, dispatch = tmp_path_factory.mktemp("gpt"), f"moe.dispatch={request.param}"
    straight = run(folder / "straight", dispatch)
    arguments = ("train", *SETTINGS, dispatch, f"run.dir={folder / 'killed'}")
    killed = torchrun("tests/trainer/killed_run.py", *arguments, KILL_RANK="1", KILL_STEP="5")
    assert "Signal 9" in killed.stderr
    return straight, run(folder / "killed", dispatch)


def test_a_killed_run_ends_as_the_straight_one(runs: tuple[Path, Path]) -> None:
    straight, killed = runs
    for part in ("checkpoints/step_00000003", "checkpoints/step_00000006", "samples"):
        assert_equal_folders(straight / part, killed / part)
    assert timeless(straight / "metrics.jsonl") == timeless(killed / "metrics.jsonl")
    assert [step for step, _ in timeless(straight / "metrics.jsonl")] == list(range(1, 7))
    assert (straight / "traces" / "routing.npz").read_bytes() == (killed / "traces" / "routing.npz").read_bytes()


def test_ranks_that_share_experts_write_what_one_process_writes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["generate", str(runs[0]), "--num-bytes", "60", "--temperature", "1.5"]
    result = torchrun("-m", "trainer", *arguments, "--out", str(tmp_path / "two"))
    assert result.returncode == 0, result.stderr
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_where_tokens_are_computed_does_not_change_the_losses(tmp_path: Path) -> None:
    settings = ("optim.steps=3", "sample.every=null", "moe.router.aux_loss=0", "moe.top_k=2", "trace.steps=[]")
    figures = {}
    for dispatch in ("home", "copies", "coherent"):
        folder = run(tmp_path / dispatch, *settings, f"moe.dispatch={dispatch}")
        figures[dispatch] = [
            [values["loss"], values["grad_norm"], values.get("held_out_loss", 0.0)]
            for _, values in timeless(folder / "metrics.jsonl")
        ]
    for dispatch in ("copies", "coherent"):
        np.testing.assert_allclose(figures[dispatch], figures["home"], rtol=2e-5, atol=0)
