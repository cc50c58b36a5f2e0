"""The laws of a task that collects: one rank as two, killed within a cycle as undisturbed, passes as one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.each import each, rows
from tests.forked import ROOT, command
from tests.trainer.commands import refused
from tests.trainer.runs import assert_equal_folders, timeless, torchrun
from tests.trainer.untrained import save_untrained
from trainer.__main__ import main
from trainer.config.file import load_config

TASK = "task={class: 'tests.trainer.task.rehearsal:Rehearsal'}"
SETTINGS = (
    str(ROOT / "configs" / "runs" / "toy.yaml"),
    "model.hidden=16",
    "model.num_layers=1",
    "data.held_out=64",
    "optim.steps=9",
    "optim.warmup_steps=0",
    "optim.global_batch=32",
    "optim.micro_batch=8",
    "checkpoint.every=3",
    "checkpoint.keep=9",
    "evaluate.every=3",
    "sample.every=null",
    "observe.log_every=1",
    "observe.tensorboard=false",
    TASK,
)
LAST = Path("checkpoints/step_00000009")


def trained(folder: Path, *more: str, ranks: int = 1) -> Path:
    result = command("train", *SETTINGS, *more, f"run.dir={folder}", ranks=ranks)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {ranks: trained(folder / f"{ranks}", ranks=ranks) for ranks in (1, 2)}


def test_two_ranks_collect_and_learn_as_one(undisturbed: dict[int, Path]) -> None:
    one, two = ([values["loss"] for _, values in timeless(undisturbed[n] / "metrics.jsonl")] for n in (1, 2))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)
    alone, shared = (load_file(undisturbed[ranks] / LAST / "ema.safetensors") for ranks in (1, 2))
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=0, atol=1e-5)


def test_it_collects_once_a_cycle_and_remembers(undisturbed: dict[int, Path]) -> None:
    state = torch.load(undisturbed[1] / LAST / "shared.pt", weights_only=True)["task"]
    assert state["collections"] == 3
    assert state["count"] == 9 * 32, "each example of each step once"
    assert float(state["total"].abs().sum()) > 0


def test_what_was_collected_changes_what_is_learned(undisturbed: dict[int, Path], tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", "task.pull=0")
    losses = [[values["loss"] for _, values in timeless(run / "metrics.jsonl")] for run in (plain, undisturbed[1])]
    assert losses[0][:3] == losses[1][:3], "a new network predicts 0, so that nothing pulls"
    assert all(one != other for one, other in zip(losses[0][3:], losses[1][3:], strict=True))


def test_a_micro_batch_in_two_passes_is_learned_as_in_one(undisturbed: dict[int, Path], tmp_path: Path) -> None:
    cut = trained(tmp_path / "cut", "task.passes=2")
    one, two = ([values["loss"] for _, values in timeless(run / "metrics.jsonl")] for run in (undisturbed[1], cut))
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 5, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_within_a_cycle_it_ends_as_undisturbed(undisturbed: dict[int, Path], step: int, tmp_path: Path) -> None:
    words = ("train", *SETTINGS, f"run.dir={tmp_path}")
    program = ROOT / "tests" / "trainer" / "training" / "killed_run.py"
    killed = command(*words, ranks=1, program=program, KILL_RANK="0", KILL_STEP=f"{step}")
    assert killed.returncode != 0
    resumed = command(*words, ranks=1)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 3" in resumed.stderr
    assert_equal_folders(undisturbed[1] / LAST, tmp_path / LAST)
    assert timeless(undisturbed[1] / "metrics.jsonl") == timeless(tmp_path / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 5, 6])
def test_killed_on_one_of_two_ranks_it_ends_as_undisturbed(
    undisturbed: dict[int, Path], step: int, tmp_path: Path
) -> None:
    words = ("train", *SETTINGS, f"run.dir={tmp_path}")
    killed = torchrun("tests/trainer/training/killed_run.py", *words, KILL_RANK="1", KILL_STEP=f"{step}")
    assert killed.returncode == 1
    resumed = command(*words, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_folders(undisturbed[2] / LAST, tmp_path / LAST)


def test_told_to_stop_within_a_cycle_it_saves_behind_the_cycle(tmp_path: Path) -> None:
    words = ("train", *SETTINGS, f"run.dir={tmp_path}", "checkpoint.every=9")
    program = ROOT / "tests" / "trainer" / "training" / "disturbed_run.py"
    stopped = command(*words, ranks=1, program=program, DISTURB="4:0:SIGTERM")
    assert stopped.returncode == 75, stopped.stderr
    assert "saved at step 6" in stopped.stderr
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


UNFIT = rows("""
checkpoint.every=4 | checkpoint.every: 4 is not a multiple of the 3 steps that share what the task collects
optim.steps=10 | optim.steps: 10 is not a multiple of the 3 steps that share what the task collects; use 12
task.pull=much | task.pull:
task.pul=1 | task.pul:
task={class: 'tests.trainer.task.rehearsal:Rehearsed'}
| task.class: Rehearsed lacks the method draw of trainer.task.Task
task={kind: next_token} | task.kind: next_token is not for a mlp model; use flow
""")


@each(("setting", "line"), UNFIT)
def test_what_does_not_fit_is_refused(setting: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SETTINGS[:-1], setting] if setting.startswith("task={") else [*SETTINGS, setting]
    assert line in refused(capsys, "check", *words, "run.dir=nowhere")


def test_the_configuration_of_the_run_names_the_class(undisturbed: dict[int, Path]) -> None:
    config = load_config(undisturbed[1] / "config.yaml")
    assert config.task.model_dump() == {
        "class": "tests.trainer.task.rehearsal:Rehearsal",
        "pull": 0.5,
        "passes": 1,
        "teacher": None,
    }
    identity = json.loads((undisturbed[1] / LAST / "COMPLETE").read_text())["identity"]
    assert identity["task.class"] == "tests.trainer.task.rehearsal:Rehearsal"


def test_the_network_of_another_run_is_asked_and_stays_as_it_is(
    undisturbed: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher"
    other = load_config(SETTINGS[0], [*SETTINGS[1:-1], f"run.dir={teacher}"])
    weights = save_untrained(other, 3) / "ema.safetensors"
    before = weights.read_bytes()
    taught = (f"task.teacher={{run: {teacher}}}",)
    assert main(["check", *SETTINGS, *taught, f"run.dir={tmp_path / 'student'}"]) == 0
    assert f"reference {weights.parent}: mlp, 0.0 MB on each rank" in capsys.readouterr().out
    student = trained(tmp_path / "student", *taught)
    assert weights.read_bytes() == before
    losses = [[values["loss"] for _, values in timeless(run / "metrics.jsonl")] for run in (student, undisturbed[1])]
    assert losses[0][0] != losses[1][0], "a network of random weights does not predict 0"
    digest = json.loads((teacher / "checkpoints" / "step_00000003" / "COMPLETE").read_text())["files"]
    config = load_config(student / "config.yaml")
    assert config.task.model_dump()["teacher"]["digest"] == digest["ema.safetensors"]["sha256"]
    save_untrained(other, 6, seed=1)
    assert "task.teacher: is " in refused(
        capsys, "train", *SETTINGS, *taught, "optim.steps=12", f"run.dir={tmp_path / 'student'}"
    )
