"""The fit-path verb, a run along what it fitted, and stages that do both."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.forked import ROOT, command
from tests.trainer.commands import GPT, contents, refused
from trainer import load_config
from trainer.__main__ import main
from trainer.config.rules.objection import refuse
from trainer.config.rules.parts import of_composition
from trainer.experiment.stage.prepare import FitPathStage
from trainer.experiment.stage.reading import load_stages
from trainer.experiment.stage.train import TrainStage
from trainer.flow.path.kinetic_optimal import read_table
from trainer.task import FlowTask
from trainer.training.path_fit import data_points

DOCUMENT: dict[str, Any] = {
    "run": {"dir": "unset"},
    "data": {"kind": "toy", "name": "eight_gaussians", "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1},
    "optim": {"steps": 2, "global_batch": 8},
    "sample": {"every": None},
}
FEW = ("--num-points", "100", "--draws", "50")


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "run": {"dir": str(folder / "run")}, **changes}))
    return path


def test_the_same_command_writes_the_same_bytes_and_tells_energies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        assert main(["fit-path", str(config), "--out", str(tmp_path / name), *FEW, "--seed", str(seed)]) == 0
    output = capsys.readouterr().out
    assert "Phi" in output
    assert all(word in output for word in ("kinetic-optimal", "straight", "trigonometric", "100 points of 2 values"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "same").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()
    assert read_table(tmp_path / "one").made_by["num_points"] == 100


def test_a_run_follows_the_file_and_refuses_another_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "path.safetensors"
    assert main(["fit-path", str(written(tmp_path)), "--out", str(file), *FEW]) == 0
    config = written(tmp_path, flow={"path": {"kind": "tabulated", "path": str(file)}})
    loaded = load_config(config)
    refuse(of_composition(loaded))
    c = FlowTask(loaded).parts.path.coefficients(torch.tensor([0.0, 1.0]))
    assert (c.a.tolist(), c.b.tolist()) == ([1, 0], [0, 1])
    assert main(["check", str(config)]) == 0
    assert main(["fit-path", str(config), "--out", str(file), *FEW, "--seed", "5"]) == 0, "its path is not looked at"
    with pytest.raises(ValueError, match=r"digest: is .* but the file has"):
        refuse(of_composition(loaded))
    file.write_bytes(file.read_bytes()[:100])
    line = refused(capsys, "check", config)
    assert f"flow.path.path: {file}: table: cannot be read" in line
    assert line.endswith("; fit it again (python -m trainer fit-path)")


def test_points_are_what_paths_end_at(tmp_path: Path) -> None:
    """Scaled as the run scales them; of a finite set, different ones."""
    config = load_config(written(tmp_path, data={**DOCUMENT["data"], "num_examples": 30}))
    scaled = load_config(written(tmp_path, data={**DOCUMENT["data"], "num_examples": 30}, flow={"data_scale": 3.0}))
    points, larger = (data_points(one, 20, torch.Generator().manual_seed(0)) for one in (config, scaled))
    torch.testing.assert_close(larger, 3 * points)
    assert len(points.unique(dim=0)) == 20
    assert len(data_points(config, 1000, torch.Generator())) == 30


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--num-points", "1"), "--num-points: must be greater than or equal to 2"),
        (("--least-price", "0"), "--least-price: must be greater than 0"),
        (("--draws", "0"), "--draws: must be greater than 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, capsys, arguments, complaint):
    config = written(tmp_path)
    before = contents(tmp_path)
    assert complaint in refused(capsys, "fit-path", config, "--out", tmp_path / "path", *arguments)
    assert contents(tmp_path) == before


def test_a_model_without_a_flow_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit-path", GPT, "--out", tmp_path / "path")
    assert line.endswith("model.kind: a gpt model predicts the next token and follows no path; give a run with a flow")


def test_paths_between_data_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "configs" / "methods" / "stochastic_interpolant.yaml")
    line = refused(capsys, "fit-path", config, "--out", tmp_path / "path")
    assert line.endswith("flow.source: this finds the path from noise, and these paths begin at toy data; remove it")


STAGES = [
    {"name": "path", "fit-path": {"num_points": 100, "draws": 50}},
    {"name": "flow", "train": {"flow": {"path": {"kind": "tabulated", "path": "{run.dir}/path/path.safetensors"}}}},
]


@pytest.mark.slow
def test_a_stage_fits_and_the_next_one_follows(tmp_path: Path) -> None:
    config = written(tmp_path, stages=STAGES)
    fitting, following = load_stages(config)
    assert isinstance(fitting, FitPathStage)
    assert (fitting.request().num_points, fitting.finished) == (100, False)
    assert following.awaited([fitting, following]) == [fitting]
    result = command("train", str(config))
    assert result.returncode == 0, result.stderr
    fitting, following = load_stages(config)
    assert fitting.finished
    assert following.finished
    assert isinstance(following, TrainStage)
    assert following.config().flow.path.digest  # type: ignore[union-attr]
    again = command("train", str(config))
    assert again.returncode == 0
    assert again.stderr.count("already finished") == 2


def test_a_wrong_fit_stage_is_refused_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, stages=[{"name": "path", "fit-path": {"num_points": 1}}, STAGES[1]])
    before = contents(tmp_path)
    assert "stages.path.num_points: " in refused(capsys, "train", config)
    assert contents(tmp_path) == before
