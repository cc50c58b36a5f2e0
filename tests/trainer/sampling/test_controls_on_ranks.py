"""Samples on two ranks under a cost that differentiates the network, whose weights or experts the ranks share."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from moe.routing_trace import RoutingTrace
from tests.forked import command
from tests.trainer import own_controls
from tests.trainer.commands import DIGITS

COST = f'{{kind: cost_gradient, cost: {{class: "{own_controls.__name__}:Predicted"}}, strength: 300, limit: null}}'
SETTINGS = (
    "model={kind: dit, hidden: 16, num_layers: 1, num_heads: 2, label_dropout: 0.1}",
    "optim={steps: 2, global_batch: 16, lr: 1.0e-2, ema_decay: 0.0}",
    "sample={every: 2, per_class: 1, sampler: {kind: euler, steps: 2}}",
    "checkpoint.every=2",
    "evaluate.every=null",
    "trace.steps=[]",
    "observe.tensorboard=false",
)
EXPERTS = "moe.num_experts=4"
DENSE = ("moe=null", "parallel.expert=1")


def trained(folder: Path, *settings: str) -> Path:
    result = command("train", DIGITS, *SETTINGS, *settings, f"run.dir={folder}", ranks=2)
    assert result.returncode == 0, result.stderr
    return folder


def picture(path: Path) -> NDArray[np.float32]:
    return matplotlib.image.imread(path)


@pytest.mark.slow
def test_previews_of_divided_weights_are_those_of_whole_ones(tmp_path: Path) -> None:
    """The gradient goes through weights that the engine has divided among the ranks."""
    controls = f"sample.controls=[{COST}]"
    engines = {
        "zero1": "{kind: deepspeed, zero_stage: 1, precision: fp32}",
        "zero3": "{kind: deepspeed, zero_stage: 3, precision: fp32}",
        "fsdp": "{kind: fsdp, precision: fp32}",
    }
    drawn = {}
    for name, engine in engines.items():
        run = trained(tmp_path / name, *DENSE, controls, f"engine={engine}")
        drawn[name] = picture(run / "samples" / "step_00000002.png")
    plain = picture(trained(tmp_path / "plain", *DENSE) / "samples" / "step_00000002.png")
    assert np.abs(drawn["zero3"] - drawn["zero1"]).max() <= 2 / 255
    assert np.abs(drawn["fsdp"] - drawn["zero1"]).max() <= 2 / 255
    assert np.abs(plain - drawn["zero1"]).max() > 20 / 255


@pytest.mark.slow
def test_two_ranks_with_experts_draw_the_picture_of_one_and_record_every_call(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", EXPERTS)
    for name, ranks in (("two", 2), ("one", None)):
        files = ("--out", str(tmp_path / f"{name}.png"), "--trace", str(tmp_path / name))
        result = command("sample", str(run), "--num", "10", "--controls", f"[{COST}]", *files, ranks=ranks)
        assert result.returncode == 0, result.stderr
    one, two = (picture(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert np.abs(one - two).max() <= 2 / 255
    trace = RoutingTrace.read(tmp_path / "one" / "routing.npz")
    assert trace.micro is not None
    assert set(trace.micro.tolist()) == {0, 1, 2, 3}, "two steps, in each the field and the cost call the network"
