"""A teacher and its student as stages: found finished, killed, and given another teacher."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forked import ROOT, command
from tests.trainer.commands import contents, refused
from tests.trainer.runs import assert_equal_folders, timeless
from trainer.__main__ import main

OBJECTIVE: dict[str, Any] = {"kind": "velocity_distillation", "teacher": {"run": "{run.dir}/teacher"}}
DOCUMENT: dict[str, Any] = {
    "run": {"dir": "unset"},
    "data": {"kind": "toy", "name": "moons", "num_examples": 40, "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1, "dropout": 0.1},
    "optim": {"steps": 4, "global_batch": 4, "lr": 1.0e-2},
    "checkpoint": {"every": 2, "keep": 9},
    "observe": {"log_every": 1},
    "stages": [
        {"name": "teacher", "train": {}},
        {
            "name": "student",
            "train": {
                "model": {"init_from": "{run.dir}/teacher"},
                "flow": {"objective": OBJECTIVE},
                "sample": {"sampler": {"kind": "renoise", "steps": 2}},
            },
        },
    ],
}
LAST = Path("student/checkpoints/step_00000004")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "stages.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT))
    return path


@pytest.fixture(scope="module")
def finished(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(file, folder, "teacher")
    before = contents(folder / "teacher")
    train(file, folder, "student")
    assert contents(folder / "teacher") == before, "not a bit of a teacher changes"
    return folder


def train(file: Path, folder: Path, stage: str, *overrides: str) -> None:
    result = command("train", str(file), f"run.dir={folder}", *overrides, "--stage", stage, ranks=1)
    assert result.returncode == 0, result.stderr


def test_check_waits_for_the_teacher(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), f"run.dir={tmp_path / 'none'}"]) == 0
    assert "cannot be checked further before stage teacher is finished" in capsys.readouterr().out
    wrong = f"run.dir={tmp_path / 'none'}"
    line = refused(capsys, "check", file, wrong, "stages.student.flow.path={kind: trigonometric}")
    assert "velocity_distillation does not go with flow.path.kind trigonometric" in line


def test_finished_stages_are_found_finished_again(
    file: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    assert main(["train", str(file), f"run.dir={finished}"]) == 0
    assert capsys.readouterr().err.count("already finished") == 2
    assert contents(finished) == before
    assert main(["check", str(file), f"run.dir={finished}"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert f"reference {finished}/teacher/checkpoints/step_00000004: mlp" in out
    assert "collectives: not known (flow.objective.kind: velocity_distillation calls the network several times" in out
    line = refused(capsys, "train", file, f"run.dir={finished}", "stages.student.flow.objective.step=0.02")
    assert "flow.objective.step: stage student was made with 0.01, and the configuration now asks for 0.02" in line


def test_killed_it_ends_as_undisturbed(file: Path, finished: Path, tmp_path: Path) -> None:
    teacher = finished / "teacher"
    same = (f"stages.student.flow.objective.teacher.run={teacher}", f"stages.student.model.init_from={teacher}")
    words = ("train", str(file), f"run.dir={tmp_path}", *same, "--stage", "student")
    program = ROOT / "tests" / "trainer" / "training" / "killed_run.py"
    assert command(*words, ranks=1, program=program, KILL_RANK="0", KILL_STEP="4").returncode != 0
    resumed = command(*words, ranks=1)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 2" in resumed.stderr
    assert_equal_folders(finished / LAST, tmp_path / LAST)
    assert timeless(finished / "student" / "metrics.jsonl") == timeless(tmp_path / "student" / "metrics.jsonl")


def test_a_student_goes_on_with_its_own_teacher_or_not_at_all(
    file: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher trains on behind the student's back; the student is finished, or has more steps to go."""
    shutil.copytree(finished / "teacher", tmp_path / "teacher")
    try:
        train(file, finished, "teacher", "stages.teacher.optim.steps=5")
        for words, steps in ((("check",), 4), (("train", "--stage", "student"), 6)):
            more = ("stages.teacher.optim.steps=5", f"stages.student.optim.steps={steps}")
            line = refused(capsys, *words, file, f"run.dir={finished}", *more)
            assert "flow.objective" in line
            assert "digest" in line
    finally:
        shutil.rmtree(finished / "teacher")
        (tmp_path / "teacher").rename(finished / "teacher")
