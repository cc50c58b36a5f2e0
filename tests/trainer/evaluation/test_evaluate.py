"""The evaluate verb: what it prints and writes, and what it refuses."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.each import each, rows
from tests.forked import ROOT
from tests.trainer.commands import refused
from tests.trainer.evaluation.test_evaluation import DIGITS, SCHEMA, TOY, measured
from tests.trainer.untrained import save_untrained
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.data import AnyConfig, DigitsConfig, ToyConfig
from trainer.evaluation.measurement import COLUMNS, FlowMeasurement, cell
from trainer.sampling.trained import opened

RUN = (
    str(ROOT / "configs" / "methods" / "stochastic_interpolant.yaml"),
    "model.hidden=16",
    "model.num_layers=1",
    "optim.steps=3",
    "optim.global_batch=16",
    "data.held_out=40",
    "evaluate.every=null",
    "sample.every=null",
    "sample.num=50",
    "sample.sampler.steps=4",
)
TOLD = ("--evaluations", "1,2", "--num", "40")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    save_untrained(load_config(RUN[0], [*RUN[1:], f"run.dir={folder}"]), 3)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are compared with 500 real examples in place of 10,000."""
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 500)


@pytest.mark.usefixtures("few")
def test_a_run_between_two_data_sets_is_measured_and_shown(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "page.html"
    assert main(["evaluate", str(run), *TOLD, "--out", str(out), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    found = json.loads(out.read_text())
    jsonschema.validate(found, SCHEMA)
    assert [(one["sampler"], one["evaluations"]) for one in found["results"]] == [
        ("euler_maruyama", 1),
        ("euler_maruyama", 2),
        ("euler", 1),
        ("euler", 2),
    ]
    assert "40 samples of step_00000003 against the data" in said
    assert "…" not in said, "nothing is cut off"
    for one in found["results"]:
        assert f"{one['figures']['wasserstein_2']:.4f}" in said
    document = page.read_text()
    assert "toy eight_gaussians to toy moons; step_00000003, 40 samples of each set, seed 0" in document
    assert "data:image/png;base64," in document


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("sections", "likelihood"), [(TOY, 20), (DIGITS, 0)], ids=["points", "images"])
def test_a_page_shows_every_figure_and_needs_nothing_else(
    sections: dict[str, Any], likelihood: int, tmp_path: Path
) -> None:
    config, found = measured(sections, evaluations=(1, 2), likelihood=likelihood)
    for name in ("one", "other"):
        (tmp_path / name).write_text(FlowMeasurement(found, config).page(config.run.dir, None))
    document = (tmp_path / "one").read_text()
    assert document == (tmp_path / "other").read_text()
    for one in found.results:
        for name, value in one.figures.items():
            assert f">{cell(name, value)}</td>" in document
            assert COLUMNS[name] in document
    assert ("Likelihood" in document) == (likelihood > 0)
    loaded = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', document)
    assert loaded == []


WRONG = rows("""
--seed -1 | --seed: -1 is below 0; use 0 or more
--num 1 | --num: 1 is below 2; use 2 or more
--evaluations 1,0 | --evaluations: '1,0' is not a list of whole numbers of 1 or more; use for example 1,2,10
--evaluations=-1 | --evaluations: '-1' is not a list of whole numbers of 1 or more; use for example 1,2,10
--evaluations=1000000000000000000000 | --evaluations: 1e+21 is above 10000; use 10000 or less
--evaluations 4,2,4 | --evaluations: 4 is given twice; give each number once
--likelihood 41 | --likelihood: 41 is more than the 40 held-out examples; use 40 or less
--likelihood -1 | --likelihood: -1 is below 0; use 0 or more
--likelihood 5 | --likelihood: samples of RUN start at toy data, whose density is unknown; leave it
""")


@each(("options", "complaint"), WRONG)
def test_wrong_numbers_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, complaint: str
) -> None:
    said = refused(capsys, "evaluate", run, *shlex.split(options), "--out", tmp_path / "figures.json")
    assert said.replace(str(run), "RUN").startswith(complaint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "field"),
    [(DigitsConfig(kind="digits"), "shape"), (ToyConfig(classes=True), "num_classes")],
    ids=["shape", "classes"],
)
def test_data_that_a_run_cannot_draw_are_refused(run: Path, data: AnyConfig, field: str) -> None:
    with opened(run, ToyConfig(name="rings")) as flow:
        assert flow.config.data == ToyConfig(name="rings")
    with pytest.raises(ValueError, match=rf"^data\.{field}: {re.escape(str(run))} draws "), opened(run, data):
        pass


def test_files_that_could_not_be_written_are_refused_before_anything_is_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "word").write_text("")
    for files, complaint in (
        (("--out", tmp_path / "same", "--page", tmp_path / "." / "same"), "--page: PATH/same is the file of --out too"),
        (("--out", tmp_path / "word" / "figures.json"), "--out: PATH/word/figures.json: its folder cannot be written"),
        (("--out", tmp_path / "new", "--page", tmp_path), "PATH: --page: is a folder; name a file"),
    ):
        said = refused(capsys, "evaluate", run, *files)
        assert said.replace(str(tmp_path), "PATH").startswith(complaint)
    assert [path.name for path in tmp_path.iterdir()] == ["word"]


def test_a_plot_of_no_points_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "sample", run, "--num", "0", "--out", tmp_path / "points.png")
    assert said == "--num: 0 is below 1; use 1 or more"


def test_a_folder_of_runs_names_those_that_are_inside(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "evaluate", run.parent, "--out", tmp_path / "figures.json")
    problem = "checkpoint: there is no complete checkpoint; give a run inside that has one"
    assert said == f"{run.parent / 'checkpoints'}: {problem}: {run}"


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "evaluate", tmp_path, "--out", tmp_path / "figures.json")
    assert said.startswith(f"{tmp_path / 'checkpoints'}: checkpoint: there is no complete checkpoint; give")
