"""Stages that search grids of times, and those that read them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import contents, refused
from tests.trainer.experiment.stage.test_stages import DOCUMENT, finish, forked
from tests.trainer.runs import torchrun
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.experiment.stage.prepare import PairsStage, StepsStage
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.reading import load_stages
from trainer.experiment.stage.running import check_stages
from trainer.experiment.stage.train import TrainStage
from trainer.flow.sampler import Euler
from trainer.flow.sampler.protocol import StepsFile

STAGES: list[dict[str, Any]] = [
    {"name": "teacher", "train": {}},
    {"name": "steps", "steps": {"run": "{run.dir}/teacher", "evaluations": [2, 3], "nodes": 10, "num": 4, "fresh": 4}},
    {
        "name": "pairs",
        "pairs": {
            "run": "{run.dir}/teacher",
            "num": 20,
            "shard_examples": 8,
            "sampler": {"kind": "euler", "steps": 10},
            "nodes": "{run.dir}/steps/steps.json",
            "evaluations": 3,
        },
    },
    {
        "name": "student",
        "train": {
            "data": {"kind": "pairs", "path": "{run.dir}/pairs", "held_out": 4},
            "model": {"init_from": "{run.dir}/teacher"},
            "flow": {"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 1}},
            "sample": {"sampler": {"kind": "euler", "steps": 3, "times": "{run.dir}/steps/steps.json"}},
        },
    },
]


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "run": {"dir": str(folder / "run")}, "stages": STAGES, **changes}))
    return path


def searched(stage: Stage, weights: str = "") -> None:
    """Leaves what a finished search leaves."""
    assert isinstance(stage, StepsStage)
    made_by = {"weights": weights, "search": "endpoint", "nodes": 10, "num": 4, "seed": 0}
    grids = {2: (0.0, 0.4, 1.0), 3: (0.0, 0.2, 0.6, 1.0)}
    StepsFile(sampler="euler", grids=grids, made_by=made_by).write(stage.file)


def finished(path: Path) -> list[Stage]:
    """The stages of a file, with results of the first three in their folders."""
    stages = load_stages(path)
    finish(stages[:1])
    (weights,) = [
        file["sha256"]
        for name, file in json.loads(next((path.parent / "run").rglob("COMPLETE")).read_text())["files"].items()
        if name == "ema.safetensors"
    ]
    searched(stages[1], weights)
    return stages


def test_later_stages_wait_for_the_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    _, steps, pairs, student = stages = load_stages(path)
    assert isinstance(steps, StepsStage)
    assert isinstance(pairs, PairsStage)
    assert isinstance(student, TrainStage)
    assert steps.file == tmp_path / "run" / "steps" / "steps.json"
    assert (steps.cost.pairs, steps.teacher) == (8, stages[0].folder)
    assert pairs.awaited(stages) == stages[:2]
    assert student.awaited(stages) == stages[:3]
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"stage steps (steps) in {steps.folder}" in said
    assert '"evaluations":[2,3]' in said
    assert "cannot be checked further before stage" in said


@each(
    ("override", "problem"),
    [
        ("stages.steps.evaluations=[2]", "steps.evaluations: 2 leave out 3, which stage pairs reads; add 3"),
        ("stages.student.sample.sampler.steps=4", "steps.evaluations: 2, 3 leave out 4, which stage student reads"),
        (
            "stages.student.sample.sampler={kind: segmented, segments: 2, within: {kind: euler, steps: 2, times: "
            "'{run.dir}/steps/steps.json'}}",
            "steps.evaluations: 2, 3 leave out 4, which stage student reads",
        ),
        ("stages.steps.evaluations=[2,3,20]", "stages.steps: evaluations: 20 exceed the 10 nodes"),
        ("stages.steps.run='{run.dir}/teachr'", "stages.steps.run: there is no run in"),
        ("stages.steps.num=0", "stages.steps.num: "),
        ("stages.pairs.guidance=2", "stages.steps.guidance: 1 is not the 2 that stage pairs draws pairs at the nodes"),
        ("stages.pairs.evaluations=null", "stages.pairs.evaluations: must be given"),
    ],
)
def test_what_cannot_be_searched_or_read_is_refused_before_the_first_begins(
    override: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problem in refused(capsys, "train", written(tmp_path), override)
    assert not (tmp_path / "run").exists()


def test_a_finished_search_of_other_settings_or_weights_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    stages = finished(path)
    check_stages(stages, 1)
    for override, name, made, asked in (
        ("stages.steps.search=chord", "search", "endpoint", "chord"),
        ("stages.steps.num=5", "num", "4", "5"),
        ("stages.steps.seed=1", "seed", "0", "1"),
        ("stages.steps.nodes=20", "nodes", "10", "20"),
        ("stages.steps.evaluations=[2,3,4]", "evaluations", r"\[2, 3\]", r"\[2, 3, 4\]"),
    ):
        said = rf"steps\.json: {name}: stage steps was made with {made}, and the configuration now asks for {asked}"
        with pytest.raises(Refusal, match=said):
            check_stages(load_stages(path, [override]), 1)
    searched(stages[1], "others")
    with pytest.raises(Refusal, match=r"steps\.json: weights: stage steps was made with others"):
        check_stages(stages, 1)


def test_pairs_at_other_nodes_than_the_grid_of_now_are_refused(tmp_path: Path) -> None:
    stages = finished(written(tmp_path))
    pairs = stages[2]
    assert isinstance(pairs, PairsStage)
    made = pairs.request().resolved().node_times
    assert made == pytest.approx([0, 0.2, 0.6, 1])
    file = stages[1].folder / "steps.json"
    document = json.loads(file.read_text())
    document["grids"]["3"] = [0, 0.25, 0.6, 1]
    file.write_text(json.dumps(document))
    with pytest.raises(Refusal, match=r"stages\.pairs: .*grids\.3: 0\.25 is not a time of the sampler's grid of 10"):
        check_stages(stages, 1)


def test_stages_run_in_order_and_finished_ones_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher is searched, and straightened at the times that were found."""
    path = written(tmp_path)
    first = forked(path)
    assert first.returncode == 0, first.stderr
    assert "stage 4 of 4, student: starts" in first.stderr
    run = tmp_path / "run"
    grid = StepsFile.read(run / "steps" / "steps.json").grids[3]
    index = json.loads((run / "pairs" / "index.json").read_text())
    assert index["nodes"] == pytest.approx(grid)
    config = load_config(run / "student" / "config.yaml")
    assert config.data.kind == "pairs"
    assert config.sample.kind == "points"
    assert config.sample.sampler == Euler(steps=3, times=run / "steps" / "steps.json")
    before = contents(run)
    assert main(["train", str(path)]) == 0
    assert capsys.readouterr().err.count("already finished") == len(STAGES)
    assert contents(run) == before
    assert "search: stage steps was made with endpoint" in refused(capsys, "train", path, "stages.steps.search=chord")


@pytest.mark.slow
def test_two_ranks_find_the_same_grids_and_pairs(tmp_path: Path) -> None:
    """Of a teacher that is there already, so that both launches follow the same weights."""
    path = written(tmp_path)
    assert main(["train", str(path), "--stage", "teacher"]) == 0
    teacher = f"'{tmp_path / 'run' / 'teacher'}'"
    named = [f"stages.{name}.run={teacher}" for name in ("steps", "pairs")]
    named.append(f"stages.student.model.init_from={teacher}")
    rest = tmp_path / "rest.yaml"
    rest.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "stages": STAGES[1:]}))
    one, two = tmp_path / "one", tmp_path / "two"
    alone = forked(rest, *named, f"run.dir={one}")
    assert alone.returncode == 0, alone.stderr
    together = torchrun("-m", "trainer", "train", str(rest), *named, f"run.dir={two}")
    assert together.returncode == 0, together.stderr
    grids = [StepsFile.read(run / "steps" / "steps.json").grids for run in (one, two)]
    assert grids[0] == grids[1]
    for name in sorted(contents(one / "pairs")):
        assert (one / "pairs" / name).read_bytes() == (two / "pairs" / name).read_bytes()
