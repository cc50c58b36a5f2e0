"""The sample verb on two ranks that share experts: the picture, its judgement, and the traces of the drawing."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from moe.routing_trace import RoutingTrace
from tests.forked import command
from tests.trainer.commands import DIGITS, refused
from trainer.config.file import load_config
from trainer.config.rules.drawing import of_drawn_together
from trainer.config.rules.objection import refuse
from trainer.flow.sampler import Dopri5, Euler, Segmented

SETTINGS = (
    "model={kind: dit, hidden: 32, num_layers: 2, num_heads: 4}",
    "optim={steps: 2, global_batch: 16, lr: 1.0e-2, ema_decay: 0.0}",
    "sample.sampler={kind: euler, steps: 3}",
    "sample.every=null",
    "checkpoint.every=2",
    "evaluate.every=null",
    "trace.steps=[]",
)
NUM, STEPS, TOKENS = 10, 3, 16


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a run, and what two ranks and one draw from it."""
    folder = tmp_path_factory.mktemp("drawn")
    run = str(folder / "run")
    ran(command("train", DIGITS, *SETTINGS, f"run.dir={run}", ranks=2))
    for name, ranks in (("two", 2), ("one", None)):
        files = ("--out", str(folder / f"{name}.png"), "--quality", str(folder / f"{name}.json"))
        ran(command("sample", run, "--num", str(NUM), *files, "--trace", str(folder / name), ranks=ranks))
    return folder


def ran(result) -> None:
    assert result.returncode == 0, result.stdout + result.stderr


def test_two_ranks_draw_the_picture_of_one(drawn: Path) -> None:
    one, two = (matplotlib.image.imread(drawn / f"{name}.png") for name in ("one", "two"))
    assert np.abs(one - two).max() <= 1 / 255
    assert one.std() > 0.01
    figures = [json.loads((drawn / f"{name}.json").read_text()) for name in ("one", "two")]
    assert figures[0].pop("run_sha256") == figures[1].pop("run_sha256")
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_every_rank_records_the_routes_of_its_own_rows(drawn: Path) -> None:
    """Guidance doubles the rows of a call, and a call is a micro batch of its rank."""
    for name, ranks in (("one", 1), ("two", 2)):
        trace = RoutingTrace.read(drawn / name / "routing.npz")
        assert trace.num_tokens == STEPS * 2 * NUM * TOKENS
        assert trace.micro is not None
        assert trace.sequence is not None
        assert set(trace.micro.tolist()) == set(range(STEPS * ranks))
        assert len(np.unique(trace.sequence)) == STEPS * 2 * NUM


def test_routes_are_the_same_on_one_rank(drawn: Path) -> None:
    """A trace of the first call, in the order of the examples: the conditional rows first, then the others."""
    one, two = (RoutingTrace.read(drawn / name / "routing.npz") for name in ("one", "two"))
    assert one.micro is not None
    assert two.micro is not None
    whole = one.expert_ids[one.micro == 0].reshape(2, 2, NUM // 2, TOKENS, *one.expert_ids.shape[1:])
    for rank in range(2):
        part = two.expert_ids[two.micro == rank].reshape(2, NUM // 2, TOKENS, *one.expert_ids.shape[1:])
        assert (part == whole[:, rank]).mean() > 0.99  # ties aside


def test_ranks_that_do_not_share_the_network_are_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sample", drawn / "run", "--num", NUM, "--out", tmp_path / "x.png")
    (tmp_path / "trace").touch()
    assert refused(capsys, *words, "--trace", tmp_path / "trace").startswith(
        f"{tmp_path / 'trace'}: --trace: is a file"
    )
    for name, value in (
        ("RANK", 0),
        ("LOCAL_RANK", 0),
        ("WORLD_SIZE", 3),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", 29500),
    ):
        monkeypatch.setenv(name, str(value))
    line = refused(capsys, *words)
    assert line == "ranks: 3 do not share the network as the run's 2 did; start one, or a multiple of 2"


def test_ranks_that_share_experts_take_their_steps_together() -> None:
    config = load_config(DIGITS)
    refuse(of_drawn_together(config, Euler()))
    alone = load_config(DIGITS, ["parallel.expert=1"])
    for chosen in (Dopri5(), Segmented(segments=2, within=Dopri5())):
        refuse(of_drawn_together(alone, chosen))
        with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: dopri5 .*; start one process$"):
            refuse(of_drawn_together(config, chosen))
