"""Every way to give a policy what it cannot learn in is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from tests.each import rows
from tests.forked import ROOT
from tests.trainer.commands import refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main

TOY = str(ROOT / "configs" / "runs" / "toy.yaml")
MODEL: dict[str, Any] = {"kind": "mlp", "hidden": 16, "num_layers": 1}
DATA: dict[str, Any] = {"kind": "toy", "name": "checkerboard"}
REWARD = "task.reward={kind: distance, target: [1, 1]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("base") / "run", {"model": MODEL, "data": DATA})


def words(base: Path, *changes: str) -> list[str]:
    model = ("model.hidden=16", "model.num_layers=1", "task.kind=grpo", f"task.base={base}", REWARD)
    return [TOY, *model, "run.dir=nowhere", *changes]


def test_a_policy_that_nothing_speaks_against_is_checked(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words(base, "optim.steps=4", "checkpoint.every=2", "task.updates=2")]) == 0
    assert f"reference {base}" in capsys.readouterr().out


REFUSED = """
task.base=null | task.kind: grpo continues a trained flow, and this run begins with none; set task.base
task.base=null & model.init_from=BASE
| task.kl: 0.004 keeps the run near its base, and task.base names none; set it to a run, or use 0
model.dropout=0.1 | model.dropout: 0.1 makes the network that learns another one than that which drew, so that ratios of
| task.kind grpo are not 1; use 0
flow.source={kind: toy, name: moons}
| task.kind: grpo draws from noise, and the paths of this flow begin at toy data; use a base without
flow.coupling.kind=minibatch_ot
| task.kind: grpo draws by steps with noise, which do not go with flow.coupling minibatch_ot and flow.path linear
| (it follows the score, which is known only where the source is normal and independent of the data)
| ; use a base with coupling independent
flow.objective={kind: velocity_distillation, teacher: {run: BASE}}
| task.kind: grpo follows velocities, and flow.objective.kind velocity_distillation learns steps to the dat
flow.data_scale=2 | task.base: BASE has flow.data_scale 1.0, and this run 2.0; leave out what the base sets
task.reward={kind: classifier} | task.reward.kind: classifier tells classes apart, and the data have 0
task.group=10 & task.branches=4 | task.branches: 4 do not divide a group of 10; use a divisor
task.groups=seed | task.groups: seed compares examples that begin at the same noise, and with branches 1
task.diffusion=[0, 1] | task.diffusion: 0 at the source leaves the first step without noise
task.steps=1 | task.steps:
task.updates=3 & optim.steps=10 & checkpoint.every=3 | optim.steps: 10 is not a multiple of the 3 steps that share what
model={kind: transition_mlp, hidden: 16} | task.kind: grpo is not for a transition_mlp model; use flow
"""


def test_what_does_not_fit_is_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, *line in rows(REFUSED.replace("BASE", str(base))):
        told = refused(capsys, "check", *words(base, *changes.split(" & ")))
        assert all(part in told for part in line), changes
