"""Figures of drawn sequences, from the command to its file."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.forked import ROOT
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.config.file import resolve
from trainer.evaluation.readings import divergence

FLOW = {"path": {"kind": "gumbel_softmax"}, "target": {"kind": "token"}, "objective": {"kind": "cross_entropy"}}


def run_of_letters(folder: Path) -> Path:
    """An untrained run over ten sequences of three letters."""
    sequences = folder / "sequences.txt"
    sequences.write_text("CAG\t60\nGAU\t30\nUUU\t20\n")
    document = {
        "data": resolve({"data": {"kind": "sequences", "path": sequences, "held_out": 20}}).document["data"],
        "model": {"kind": "dit", "patch_size": 1, "hidden": 16, "num_layers": 1, "num_heads": 2},
        "flow": FLOW,
        "sample": {"kind": "sequences", "num": 12, "sampler": {"kind": "euler", "steps": 2}},
    }
    return untrained_run(folder / "run", document)


def test_the_file_has_what_was_drawn_and_the_page_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out, page = run_of_letters(tmp_path), tmp_path / "figures.json", tmp_path / "page.html"
    words = ["--evaluations", "1", "--num", "20", "--out", str(out), "--page", str(page)]
    assert main(["evaluate", str(run), *words]) == 0
    assert "nats from the data (held-out" in " ".join(capsys.readouterr().out.split())
    document = json.loads(out.read_text())
    jsonschema.validate(document, json.loads((ROOT / "configs/schemas/evaluation.schema.json").read_text()))
    found = document["sequences"]
    assert found["sequences"] == 20
    assert found["new"]["held_out"] == 0
    assert found["new"]["drawn"] > 0.3, "an untrained network draws what it has not seen"
    assert found["places"]["drawn"] > found["places"]["held_out"]
    assert "two neighbouring places" in page.read_text()


def test_samples_are_written_as_sequences_beside_a_logo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = run_of_letters(tmp_path), tmp_path / "drawn.png"
    assert main(["sample", str(run), "--out", str(out)]) == 0
    assert "12 sequences of step_" in capsys.readouterr().out
    lines = out.with_suffix(".fasta").read_text().splitlines()
    assert lines[::2] == [f">{number}" for number in range(1, 13)]
    assert all(len(line) == 3 and set(line) <= set("ACGU") for line in lines[1::2])
    assert out.read_bytes().startswith(b"\x89PNG")


def test_likelihood_and_steps_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of_letters(tmp_path)
    for verb, message in (
        (
            ["evaluate", str(run), "--likelihood", "5", "--out", "a.json"],
            "--likelihood: .* draws letters, which have no",
        ),
        (["steps", str(run), "--out", "a.json"], "run_dir: its states are of letters"),
    ):
        assert main(verb) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1, message


def test_the_divergence_is_that_of_each_place() -> None:
    real = np.array([[0, 1]] * 500 + [[1, 0]] * 500)
    assert divergence(real, real, 2, 1) == pytest.approx(0, abs=1e-5)
    mixed = np.array([[0, 0], [1, 1], [0, 1], [1, 0]] * 250)
    assert divergence(mixed, real, 2, 1) == pytest.approx(0, abs=1e-5)
    assert divergence(mixed, real, 2, 2) > 2, "the letters go together"
