"""Both stages of blockwise flow matching on two ranks: resumed bit for bit, and what their traces say."""

from pathlib import Path

import numpy as np
import pytest

from moe.__main__ import main as moe
from moe.routing_trace import RoutingTrace
from tests.trainer.runs import torchrun
from trainer.__main__ import main

CONFIG = "configs/methods/blockwise.yaml"
SMALL = (
    *("optim.steps=4", "stages.residual.optim.steps=4", "optim.global_batch=16", "optim.warmup_steps=0"),
    *("model.trunk_layers=1", "model.hidden=16", "model.teacher_features=8", "data.held_out=16"),
    *("sample.every=4", "sample.per_class=1", "sample.sampler.within.steps=2"),
    *("checkpoint.every=2", "checkpoint.keep=2", "evaluate.every=4", "observe.log_every=1", "trace.steps=[3,4]"),
)
WEIGHTS = Path("checkpoints/step_00000004")


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        ("engine={kind: fsdp}",),
        ("engine={kind: deepspeed, zero_stage: 2}",),
        ("engine={kind: deepspeed, zero_stage: 3}",),
    ],
    ids=["FSDP2", "ZeRO 2", "ZeRO 3"],
)
def test_both_stages_resume_bit_for_bit(engine: tuple[str, ...], tmp_path: Path) -> None:
    arguments = [CONFIG, f"run.dir={tmp_path}", *SMALL, *engine]
    teacher = str(tmp_path / "teacher.safetensors")
    assert main(["features", CONFIG, "--hidden", "8", "--out", teacher]) == 0
    straight = torchrun("-m", "trainer", "train", *arguments)
    assert straight.returncode == 0, straight.stderr
    names = [stage / WEIGHTS / "ema.safetensors" for stage in (tmp_path / "main", tmp_path / "residual")]
    wanted = [name.read_bytes() for name in names]
    for name in names:
        name.parent.rename(tmp_path / name.parents[2].name / "taken_away")
    resumed = torchrun("-m", "trainer", "train", *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("resumes after step 2") == 2
    assert [name.read_bytes() for name in names] == wanted

    routing = tmp_path / "main" / "traces" / "routing.npz"
    found = RoutingTrace.read(routing)
    assert found.expert_ids.shape == (2 * 16 * 16, 1, 1)  # two steps of 16 digits, each of 16 tokens
    assert np.bincount(found.expert_ids.ravel()).tolist() == 4 * [128]
    options = ("--nodes", "2", "--ranks-per-node", "1", "--out", str(tmp_path / "placement.json"))
    assert moe(["place", str(routing), *options]) == 0
