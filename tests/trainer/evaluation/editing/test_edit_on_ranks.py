"""The edit verb on ranks that share experts, and in other batches: always the same folder, byte for byte."""

from pathlib import Path

import pytest

from tests.forked import command
from tests.trainer.commands import DIGITS, contents

pytestmark = pytest.mark.slow
QUICK = (
    "model={kind: dit, hidden: 32, num_layers: 2, num_heads: 4, label_dropout: 0.1}",
    "optim={steps: 2, global_batch: 16, lr: 1.0e-2, ema_decay: 0.0}",
    *("sample.every=null", "checkpoint.every=2", "evaluate.every=null", "trace.steps=[]"),
)
WORDS = ("flowopt", "targets=[3,8]", "together=4", "--num-pictures", "24")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture that two ranks have trained; few tokens visit some of its experts."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    result = command("train", DIGITS, *QUICK, f"run.dir={folder}", ranks=2)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(run: Path) -> Path:
    return edited(run, run.parent / "undisturbed")


def edited(run: Path, out: Path, *words: str, ranks: int | None = None) -> Path:
    result = command("edit", str(run), *WORDS, *words, "--out", str(out), ranks=ranks)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


def test_ranks_that_share_experts_leave_the_folder_of_one(run: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert contents(edited(run, tmp_path / "two", ranks=2)) == contents(undisturbed)


def test_other_batches_leave_the_same_folder(run: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert contents(edited(run, tmp_path / "all", "together=24")) == contents(undisturbed)
