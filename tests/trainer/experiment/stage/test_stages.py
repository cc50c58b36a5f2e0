"""Configurations of several runs, one after the other."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import yaml

from netsim.foundation.refusal import Refusal
from tests.each import each, rows
from tests.forked import command
from tests.trainer.commands import contents, refused
from tests.trainer.runs import torchrun
from trainer.__main__ import main
from trainer.checkpoint.manifest import Manifest, records
from trainer.config.rules.objection import Objections
from trainer.data.shard.index import PairIndex
from trainer.distributed.groups import Launch
from trainer.distributed.process.children import Supervisor
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.experiment.stage import running
from trainer.experiment.stage.prepare import FitPathStage, PairsStage
from trainer.experiment.stage.protocol import Provenance, Stage
from trainer.experiment.stage.reading import KINDS, load_stages
from trainer.experiment.stage.running import check_read, check_stages
from trainer.experiment.stage.train import TrainStage
from trainer.flow.path.kinetic_optimal import PathTable

DOCUMENT: dict[str, Any] = {
    "run": {"dir": "unset"},
    "data": {"kind": "toy", "name": "moons", "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1},
    "optim": {"steps": 2, "global_batch": 4},
    "sample": {"every": None},
    "stages": [
        {"name": "teacher", "train": {}},
        {
            "name": "pairs",
            "pairs": {"run": "{run.dir}/teacher", "num": 20, "shard_examples": 8, "sampler": {"kind": "euler"}},
        },
        {
            "name": "reflow",
            "train": {
                "data": {"kind": "pairs", "path": "{run.dir}/pairs", "held_out": 4},
                "model": {"init_from": "{run.dir}/teacher"},
                "flow": {"coupling": {"kind": "paired"}},
                "optim": {"steps": 3},
            },
        },
    ],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "run": {"dir": str(folder / "run")}, **changes}))
    return path


def forked(path: Path, *overrides: str, disturb: str = "") -> Any:
    """Runs stages in processes that have imported everything; disturbed_run.py says what may happen to them."""
    program = Path(__file__).with_name("forked_stages.py")
    return command("train", str(path), *overrides, program=program, DISTURB=disturb)


@dataclass(frozen=True)
class NoteStage(Stage):
    """A kind of stage of its own, which writes down a sentence."""

    verb = "note"

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:  # noqa: ARG003
        return cls(name, path, Path(base) / name, settings)

    @property
    def finished(self) -> bool:
        return (self.folder / "note").exists()

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002
        if "text" not in self.document:
            yield Refusal(self.path, f"stages.{self.name}.text", "is missing", "write a sentence")

    def run(self, launch: Launch) -> int:  # noqa: ARG002
        self.folder.mkdir(parents=True)
        (self.folder / "note").write_text(self.document["text"])
        return 0

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:  # noqa: ARG002
        print(f"writes {self.document['text']}")

    def provenance(self) -> Provenance:
        return Provenance(self.folder / "note", {"text": (self.folder / "note").read_text()}, self.document)


def test_a_new_kind_of_stage_is_one_class_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(KINDS, "note", NoteStage)
    path = written(tmp_path, stages=[{"name": "own", "note": {"text": "hello"}}])
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"stage own (note) in {tmp_path / 'run' / 'own'}\nwrites hello\n"
    assert main(["train", str(path), "--stage", "own"]) == 0
    assert (tmp_path / "run" / "own" / "note").read_text() == "hello"
    line = refused(capsys, "check", path, "stages.own.text=good-bye")
    assert "note: text: stage own was made with hello, and the configuration now asks for good-bye" in line
    assert "give it exactly one of train, pairs, fit-path, steps, measure or note" in refused(
        capsys, "check", written(tmp_path, stages=[{"name": "own"}])
    )


def test_what_a_stage_does_not_say_is_what_the_file_says(tmp_path: Path) -> None:
    base = tmp_path / "run"
    teacher, pairs, reflow = load_stages(written(tmp_path), ["optim.steps=7", "optim.lr=0.5"])
    assert [stage.name for stage in (teacher, pairs, reflow)] == ["teacher", "pairs", "reflow"]
    assert isinstance(teacher, TrainStage)
    assert isinstance(pairs, PairsStage)
    assert isinstance(reflow, TrainStage)
    config = teacher.config()
    assert (config.run.dir, config.optim.steps, config.optim.lr) == (base / "teacher", 7, 0.5)
    assert (pairs.folder, pairs.request().run) == (base / "pairs", base / "teacher")
    assert reflow.document["optim"] == {"steps": 3, "global_batch": 4, "lr": 0.5}, "the stage's own settings win"
    assert reflow.document["data"] == {"kind": "pairs", "path": str(base / "pairs"), "held_out": 4}
    assert reflow.document["model"]["init_from"] == str(base / "teacher")
    assert reflow.awaited([teacher, pairs, reflow]) == [teacher, pairs]
    addressed = load_stages(written(tmp_path), ["stages.reflow.optim.steps=10", "stages.pairs.num=5"])
    assert addressed[2].document["optim"]["steps"] == 10
    assert addressed[1].document["num"] == 5


def test_a_file_without_stages_is_one_stage(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in DOCUMENT.items() if name != "stages"}))
    (only,) = load_stages(path, ["optim.steps=9"])
    assert isinstance(only, TrainStage)
    assert (only.name, only.config().optim.steps) == ("", 9)


@each(
    ("stages", "problem"),
    [
        ([], "stages: is not a list of stages"),
        ([{"train": {}}], r"stages\.0: its name cannot be"),
        ([{"name": "../a", "train": {}}], r"stages\.0: its name cannot be that of a folder \(\.\./a\)"),
        ([{"name": "a", "train": {}}, {"name": "a", "train": {}}], r"stages\.1: a is given twice"),
        ([{"name": "a"}], r"stages\.0: has no verb"),
        ([{"name": "a", "train": {}, "pairs": {}}], r"stages\.0: has pairs, train"),
        ([{"name": "a", "train": 3}], r"stages\.0: train is not a section"),
    ],
)
def test_what_is_no_stage_is_refused(tmp_path: Path, stages: Any, problem: str) -> None:
    with pytest.raises(Refusal, match=problem):
        load_stages(written(tmp_path, stages=stages))


def test_a_wrong_stage_is_refused_before_the_first_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert "there is no stage x" in refused(capsys, "train", path, "stages.x.optim.steps=1")
    assert "--stage: there is no stage x" in refused(capsys, "train", path, "--stage", "x")
    assert "stages.pairs.num: " in refused(capsys, "train", path, "stages.pairs.num=0")
    assert "stages.teacher: optim.lr: " in refused(capsys, "train", path, "optim.lr=-1")
    for override, wrong in (
        ("time={kind: grit}", "time.kind: 'grit' is not one of"),
        ("tyme=1", "tyme: is not a known key"),
    ):
        said = refused(capsys, "train", path, f"stages.reflow.flow.{override}")
        assert f"stages.reflow: flow.{wrong}" in said, "although it reads from stages that are to come"
    assert not (tmp_path / "run").exists()


def test_check_says_which_stages_wait_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(written(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "stage teacher (train)" in said
    assert "collectives of rank 0" in said
    assert "cannot be checked further before stage pairs is finished" in said
    assert main(["check", str(written(tmp_path)), "stages.reflow.flow.tyme=1"]) == 2
    assert "stages.reflow: flow.tyme: is not a known key" in capsys.readouterr().err
    assert "there is no run in" in refused(capsys, "check", written(tmp_path), "stages.pairs.run='{run.dir}/teachr'")


def finish(stages: Sequence[Stage], weights: str = "as drawn") -> None:
    """Leaves what the stages leave that is looked at when they are finished."""
    digest = ""
    for stage in stages:
        if isinstance(stage, TrainStage):
            config = stage.config()
            folder = stage.folder / "checkpoints" / f"step_{config.optim.steps:08d}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(config.to_yaml())
            (folder / "ema.safetensors").write_text(weights)
            files = records(folder, list(folder.iterdir()))
            Manifest(config.optim.steps, config.optim.steps, {}, {}, files).write(folder)
            digest = files["ema.safetensors"].sha256
        elif isinstance(stage, PairsStage):
            stage.folder.mkdir(parents=True)
            num = stage.request().num
            PairIndex(
                shape=(2,),
                dtype="float32",
                num_classes=0,
                segments=None,
                made_by=stage.request().what_decides(digest, None),
                shards=({"file": "shard_00000.safetensors", "num_examples": num},),  # pyright: ignore[reportArgumentType]
            ).write(stage.folder)


CHANGED = """
model.hidden=32 | teacher/checkpoints/step_00000002/config.yaml: model.hidden | 16 | 32
optim.lr=0.5 | teacher/checkpoints/step_00000002/config.yaml: optim.lr | 0.001 | 0.5
run.seed=7 | teacher/checkpoints/step_00000002/config.yaml: run.seed | 0 | 7
engine.precision=bf16 | teacher/checkpoints/step_00000002/config.yaml: engine.precision | fp32 | bf16
stages.pairs.num=50 | pairs/index.json: num | 20 | 50
stages.pairs.guidance=3 | pairs/index.json: guidance | 1.0 | 3.0
stages.pairs.sampler.steps=7 | pairs/index.json: sampler.steps | 20 | 7
stages.reflow.data.held_out=5 | reflow/checkpoints/step_00000003/config.yaml: data.held_out | 4 | 5
"""


def test_a_finished_stage_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    finish(load_stages(path))
    for override, field, made, asked in rows(CHANGED):
        with pytest.raises(Refusal) as refusal:
            check_stages(load_stages(path, [override]), 1)
        line = str(refusal.value)
        assert field in line
        assert f"was made with {made}, and the configuration now asks for {asked}; give another run.dir, or" in line


def test_what_decides_nothing_or_is_not_finished_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    finish(load_stages(path))
    observing = ["observe.log_every=3", "checkpoint.every=1", "evaluate.every=7", "trace.steps=[]", "sample.num=9"]
    check_stages(load_stages(path, [*observing, "engine.zero_stage=0", "guard.hang_timeout_s=9"]), 1)
    check_stages(load_stages(path, ["stages.reflow.optim.steps=9", "stages.reflow.optim.lr=0.5"]), 1)
    monkeypatch.chdir(tmp_path)
    check_stages(load_stages(path, ["run.dir=run"]), 1)


def test_what_was_made_of_a_stage_is_refused_once_that_is_made_anew(tmp_path: Path) -> None:
    path = written(tmp_path)
    stages = load_stages(path)
    finish(stages)
    with pytest.raises(Refusal, match="pairs: stage: is finished, and stage teacher, from which it was made, is not"):
        check_stages(load_stages(path, ["stages.teacher.optim.steps=4"]), 1)
    stages[0].folder.rename(tmp_path / "old")
    finish(stages[:1], weights="as drawn another time")
    with pytest.raises(Refusal, match=r"pairs/index\.json: weights: stage pairs was made with"):
        check_stages(stages, 1)


def test_a_stage_alone_refuses_what_it_reads_from_as_all_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    stages = load_stages(path)
    finish(stages[:2])
    before = contents(tmp_path)
    for override in ("run.seed=7", "stages.pairs.guidance=3"):
        line = refused(capsys, "train", path, override, "--stage", "reflow")
        assert line == refused(capsys, "train", path, override)
    assert "guidance: stage pairs was made with 1.0, and the configuration now asks for 3.0" in line
    assert contents(tmp_path) == before
    changed = load_stages(path, ["stages.reflow.optim.lr=0.5"])
    check_read(changed[2], changed)


def test_a_fitted_path_of_other_settings_is_refused(tmp_path: Path) -> None:
    fit = {"name": "path", "fit-path": {"num_points": 20, "draws": 10}}
    path = written(tmp_path, stages=[fit, {"name": "run", "train": {}}])
    stages = load_stages(path)
    assert isinstance(stages[0], FitPathStage)
    ends = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    slopes = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    stages[0].folder.mkdir(parents=True)
    made_by = stages[0].request().what_decides(stages[0].config())
    PathTable(ends, slopes, {**made_by, "points": 20}).write(stages[0].file)
    check_stages(stages, 1)
    check_stages(load_stages(path, ["optim.lr=0.5", "stages.run.flow.time.kind=logit_normal"]), 1)
    for override, field, was in [
        ("stages.path.draws=11", "draws", "10"),
        ("data.name=eight_gaussians", r"data\.name", "moons"),
        ("flow.data_scale=0.5", r"flow\.data_scale", r"1\.0"),
    ]:
        now = override.partition("=")[2]
        told = rf"path\.safetensors: {field}: stage path was made with {was}, and the configuration now asks for {now}"
        with pytest.raises(Refusal, match=told):
            check_stages(load_stages(path, [override]), 1)
    from_data = ["flow.source.kind=toy", "flow.source.name=moons", "flow.source.seed=1"]
    with pytest.raises(Refusal, match=rf"{path}: stages\.path: flow\.source: .* begin at toy data; remove it"):
        check_stages(load_stages(path, from_data), 1)


def test_pairs_of_a_teacher_that_nobody_trains_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    line = refused(capsys, "train", path, "stages.pairs.run='{run.dir}/teachr'")
    assert f"stages.pairs.run: there is no run in {tmp_path}/run/teachr" in line
    assert f"an earlier stage that trains ({tmp_path}/run/teacher)" in line
    assert "there is no run in" in refused(capsys, "train", path, "stages.pairs.run='{run.dir}/reflow'"), "a later one"
    (tmp_path / "elsewhere").mkdir()
    (teacher,) = load_stages(written(tmp_path / "elsewhere", stages=DOCUMENT["stages"][:1]))
    finish([teacher])
    check_stages(load_stages(path, [f"stages.pairs.run={teacher.folder}"]), 1)


def test_pairs_of_which_the_student_holds_out_all_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    line = refused(capsys, "train", path, "stages.pairs.num=4")
    assert "stages.pairs.num: 4 leave none to train on to stage reflow, which holds out 4; draw more" in line
    check_stages(load_stages(path, ["stages.pairs.num=5"]), 1)


def test_a_stage_that_is_told_to_stop_before_it_listens_has_saved_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def told_while_starting(command: list[str], env: dict[str, str], **_: Any) -> Any:
        child = start([command[0], "-c", "import time; time.sleep(20)"], env=env)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr(subprocess, "Popen", told_while_starting)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with Supervisor().listening() as supervisor:
            assert running.run_stage(supervisor, ["stages.yaml"], "teacher") == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_stages_that_are_told_to_stop_go_on_as_undisturbed_ones(tmp_path: Path) -> None:
    """Within the first, and once that is finished."""
    stages = [{"name": "first", "train": {}}, {"name": "second", "train": {"model": {"init_from": "{run.dir}/first"}}}]
    path = written(tmp_path, stages=stages, optim={"steps": 3, "global_batch": 4}, evaluate={"every": None})
    straight, told = tmp_path / "straight", tmp_path / "told"
    assert forked(path, f"run.dir={straight}").returncode == 0
    for step, said in (
        (2, "stopped by SIGTERM; saved at step 2"),
        (3, "stage 2 of 2, second: not started, since the run was stopped"),
    ):
        stopped = forked(path, f"run.dir={told}", disturb=f"{step}:0:SIGTERM agent")
        assert stopped.returncode == EX_TEMPFAIL, stopped.stderr
        assert said in stopped.stderr
        assert not (told / "second").exists()
    assert "resumes after step 2" in stopped.stderr
    resumed = forked(path, f"run.dir={told}")
    assert resumed.returncode == 0, resumed.stderr
    assert "first: already finished" in resumed.stderr
    for stage in ("first", "second"):
        last = Path(stage, "checkpoints", "step_00000003")
        found, wanted = (contents(folder / last) for folder in (told, straight))
        naming = {"config.yaml", "COMPLETE", "README.md"}
        assert "ema.safetensors" in wanted
        assert {name: found[name] for name in found if name not in naming} == {
            name: wanted[name] for name in wanted if name not in naming
        }


@pytest.mark.slow
def test_killed_stages_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """On two ranks: first killed while pairs are written, then while the student trains."""
    (tmp_path / "folder").mkdir()
    path = written(tmp_path / "folder", checkpoint={"every": 2, "keep": 9}, optim={"steps": 4, "global_batch": 4})
    settings = "train", str(path), "stages.reflow.optim.steps=4"
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed = torchrun("-m", "trainer", *settings, f"run.dir={straight}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    for stage, rank, step in (("pairs", "0", "2"), ("reflow", "1", "3")):
        when = {"KILL_STAGE": stage, "KILL_RANK": rank, "KILL_STEP": step}
        died = torchrun("tests/trainer/experiment/stage/killed_stage.py", *settings, f"run.dir={killed}", **when)
        assert died.returncode == 1
        if stage == "pairs":
            assert not (killed / "pairs" / "index.json").exists()
            assert list((killed / "pairs").glob(".shard_00002*"))
    resumed = torchrun("-m", "trainer", *settings, f"run.dir={killed}")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 2" in resumed.stderr
    assert contents(straight / "pairs") == contents(killed / "pairs")
    for stage in ("teacher", "reflow"):
        assert states(straight / stage) == states(killed / stage)


def states(run: Path) -> dict[str, bytes | None]:
    """What the checkpoints of a run hold, but for what names its folders."""
    naming = ("config.yaml", "COMPLETE")
    found = {name: held for name, held in contents(run / "checkpoints").items() if Path(name).name not in naming}
    assert {Path(name).name for name in found} >= {"step_00000002", "step_00000004", "ema.safetensors"}
    return found
