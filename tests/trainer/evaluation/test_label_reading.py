"""What a symmetric flow reads from images, from the command to its file."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.forked import ROOT
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main

RUN = {
    "data": {"kind": "digits", "held_out": 30},
    "model": {"kind": "dit", "patch_size": 4, "hidden": 16, "num_layers": 1, "num_heads": 2, "label_dropout": 0.0},
    "flow": {"coupling": {"kind": "symmetric", "label": {"kind": "one_hot"}}},
    "sample": {"per_class": 1, "guidance": 1.0},
}


def test_the_file_has_what_was_read_and_the_page_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out, page = untrained_run(tmp_path / "run", RUN), tmp_path / "figures.json", tmp_path / "page.html"
    words = ["--evaluations", "1", "--num", "20", "--out", str(out), "--page", str(page)]
    assert main(["evaluate", str(run), *words]) == 0
    assert "classes of 30 held-out images read in one evaluation" in " ".join(capsys.readouterr().out.split())
    document = json.loads(out.read_text())
    jsonschema.validate(document, json.loads((ROOT / "configs/schemas/evaluation.schema.json").read_text()))
    labels, confusion = document["labels"], np.array(document["labels"]["confusion"])
    assert confusion.sum() == labels["images"] == 30
    assert labels["accuracy"]["8"] == pytest.approx(np.trace(confusion) / 30)
    assert labels["logistic_regression"] > 0.9
    assert "What it reads" in page.read_text()
