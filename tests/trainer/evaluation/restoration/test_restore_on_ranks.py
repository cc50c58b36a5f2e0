"""The restore verb killed at any moment, and on several ranks: always the same folder."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.forked import ROOT, command
from tests.trainer.commands import DIGITS, contents
from tests.trainer.untrained import untrained_run

pytestmark = pytest.mark.slow
QUICK = ("method.weight=constant", "method.scale=0.2", "samples=2", "together=2", "--num-pictures", "12")
WORDS = ("flair_inpainting", "operator.mask={kind: boxes}", "noise=0.05", *QUICK)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = {"kind": "dit", "patch_size": 2, "hidden": 64, "num_layers": 3, "num_heads": 4, "label_dropout": 0.1}
    sections = {"data": {"kind": "digits", "held_out": 20}, "model": model}
    return untrained_run(tmp_path_factory.mktemp("runs") / "digits", sections)


@pytest.fixture(scope="module")
def undisturbed(run: Path) -> Path:
    return restored(run, run.parent / "undisturbed")


def restored(run: Path, out: Path, ranks: int | None = None) -> Path:
    result = command("restore", str(run), *WORDS, "--out", str(out), ranks=ranks)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def test_a_process_that_is_killed_again_and_again_leaves_the_folder_of_one_that_is_not(
    run: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", 0
    for wanted in (1, 3, 6, 9):
        words = [sys.executable, "-m", "trainer", "restore", str(run), *WORDS, "--out", str(out)]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and len([*out.glob("arrays/*.safetensors")]) < wanted:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        assert not (out / "index.html").exists()
    assert killed == 4
    restored(run, out)
    assert contents(out) == contents(undisturbed)


def test_a_process_that_is_told_to_stop_says_how_to_go_on(run: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-m", "trainer", "restore", str(run), *WORDS, "--out", str(out)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not [*out.glob("arrays/*.safetensors")]:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate()
    assert process.returncode == 75, said + complained
    assert "stopped by Ctrl-C; its finished pictures are kept; start it again to resume" in said + complained
    restored(run, out)
    assert contents(out) == contents(undisturbed)


def test_two_ranks_leave_the_folder_of_one(run: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert contents(restored(run, tmp_path / "two", ranks=2)) == contents(undisturbed)


def test_ranks_that_share_experts_restore_the_pictures_of_one(tmp_path: Path) -> None:
    settings = (
        "model={kind: dit, hidden: 32, num_layers: 2, num_heads: 4, label_dropout: 0.1}",
        "optim={steps: 2, global_batch: 16, lr: 1.0e-2, ema_decay: 0.0}",
        *("sample.every=null", "checkpoint.every=2", "evaluate.every=null", "trace.steps=[]"),
    )
    run = tmp_path / "run"
    result = command("train", DIGITS, *settings, f"run.dir={run}", ranks=2)
    assert result.returncode == 0, result.stdout + result.stderr
    one, two = restored(run, tmp_path / "one"), restored(run, tmp_path / "two", ranks=2)
    files = sorted(path.name for path in (one / "arrays").iterdir())
    assert files == sorted(path.name for path in (two / "arrays").iterdir())
    assert len(files) == 12
    for name in files:
        first, second = (load_file(folder / "arrays" / name) for folder in (one, two))
        for key, values in first.items():
            torch.testing.assert_close(second[key], values, rtol=1e-4, atol=1e-5)
