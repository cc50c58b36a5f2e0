"""What report refuses: metrics, judgements and placements that are malformed, missing or of another run."""

import json
from pathlib import Path

import pytest

from moe.placement.placement import Placement
from tests.forked import ROOT
from tests.trainer.commands import DIGITS, contents, refused
from trainer.__main__ import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

FILES = ROOT / "tests" / "files"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"loss": 2.5, "lr": 0.1, "step": 1}\n{"loss": 1.5, "lr": 0.1, "step": 2}\n')
    return folder


@pytest.mark.parametrize(
    ("metrics", "field"),
    [
        ("", "records"),
        ("{", "line 1"),
        ('{"step": 1, "loss": 1.0}', "line 1"),
        ('{"step": 1, "lr": 1.0}\n', "line 1: loss"),
        ('{"step": 1, "loss": "low"}\n', "line 1: loss"),
        ('{"step": 2, "loss": 1.0}\n{"step": 1, "loss": 1.0}\n', "line 2: step"),
    ],
)
def test_report_refuses_malformed_metrics(
    metrics: str, field: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_dir / "metrics.jsonl"
    path.write_text(metrics)
    assert refused(capsys, "report", run_dir, "--out", run_dir / "x.html").startswith(f"{path}: {field}")
    (run_dir / "good").mkdir()
    (run_dir / "good" / "metrics.jsonl").write_text('{"loss": 1.0, "step": 1}\n')
    line = refused(capsys, "report", run_dir / "good", "--placed-run", run_dir, "--out", run_dir / "x.html")
    assert line.startswith(f"{path}: {field}")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "document"),
        ("[]", "class_accuracy"),
        ("{}", "frechet_distance_unguided"),
        ('{"class_accuracy": "all", "frechet_distance_unguided": 1}', "class_accuracy"),
        ('{"class_accuracy": NaN, "frechet_distance_unguided": 1}', "class_accuracy"),
        ('{"class_accuracy": 95, "frechet_distance_unguided": 1}', "class_accuracy"),
        ('{"class_accuracy": 0.5}', "frechet_distance_unguided"),
        ('{"class_accuracy": 0.5, "frechet_distance_unguided": Infinity}', "frechet_distance_unguided"),
        ('{"class_accuracy": 0.5, "frechet_distance_unguided": -1}', "frechet_distance_unguided"),
    ],
)
def test_report_refuses_a_malformed_judgement(
    text: str, field: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_dir / "quality.json"
    path.write_text(text)
    before = contents(run_dir)
    line = refused(capsys, "report", run_dir, "--quality", path, "--out", run_dir / "x.html")
    assert line.startswith(f"{path}: {field}: ")
    assert line.endswith("; write it with sample --quality")
    assert contents(run_dir) == before


def test_report_refuses_what_does_not_belong_together(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = json.loads((FILES / "placement.json").read_text())
    placement = run_dir / "placement.json"
    for layers, experts, field in ((3, 16, "num_experts"), (2, 8, "num_layers")):
        document = Placement.contiguous(layers, experts, 2, 2).model_dump(mode="json")
        placement.write_text(json.dumps({**document, "objective": golden["objective"]}))
        line = refused(
            capsys,
            *("report", run_dir, "--placement", placement, "--routing", FILES / "routing.npz"),
            *("--out", run_dir / "x.html"),
        )
        assert line.startswith(f"{placement}: {field}: is ")
    Placement.contiguous(3, 8, 2, 2).write(placement)
    line = refused(
        capsys,
        *("report", run_dir, "--placement", placement, "--routing", FILES / "routing.npz"),
        *("--out", run_dir / "x.html"),
    )
    assert line.startswith(f"{placement}: objective: is null")


def test_report_refuses_what_is_missing(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing, out = run_dir / "none", run_dir / "x.html"
    before = contents(run_dir)
    for options, named in (
        ((nothing,), nothing / "metrics.jsonl"),
        ((run_dir, "--quality", nothing), nothing),
        ((run_dir, "--placement", nothing), nothing),
        ((run_dir, "--placement", FILES / "placement.json"), run_dir / "traces" / "routing.npz"),
        ((run_dir, "--placement", FILES / "placement.json", "--routing", nothing), nothing),
        ((run_dir, "--placed-run", nothing), nothing / "metrics.jsonl"),
        ((run_dir, "--placed-run", run_dir, "--unplaced-run", nothing), nothing / "metrics.jsonl"),
        ((run_dir, "--simulation", nothing), nothing / "results.json"),
    ):
        line = refused(capsys, "report", *options, "--out", out)
        assert line.startswith(f"{named}: ")
        assert "; " in line
    assert contents(run_dir) == before


def test_report_dates_the_held_out_loss_by_its_own_step(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text(
        '{"held_out_loss": 0.75, "loss": 1, "step": 100}\n{"loss": 1, "step": 130}\n'
    )
    assert main(["report", str(run_dir), "--out", str(run_dir / "x.html")]) == 0
    page = (run_dir / "x.html").read_text()
    assert "averaged weights, step 100" in page
    assert "0.7500" in page


@pytest.mark.parametrize("verb", ["trace", "report"])
def test_a_place_that_cannot_be_written_is_refused(
    verb: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_dir)
    problems = {run_dir: "--out: is a folder; ", run_dir / "metrics.jsonl" / "x": "output: cannot be written "}
    for out, problem in problems.items():
        arguments = {"trace": (DIGITS, "--world-size", 2), "report": (run_dir,)}
        line = refused(capsys, verb, *arguments[verb], "--out", out)
        assert line.startswith(f"{out}: {problem}")
    assert contents(run_dir) == before
