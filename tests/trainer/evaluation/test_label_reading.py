"""What a symmetric flow reads from images, from the command to its file."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.forked import ROOT
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.data import DigitsConfig, ShardsConfig, build, write_shards
from trainer.data.shard.writer import Examples

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


def test_masks_and_classes_are_read_by_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = build(DigitsConfig(held_out=30))
    batch = digits.get(digits.indices("train")[:90])
    assert batch.labels is not None
    masks = (batch.x_1 > -0.4).float() * 2 - 1
    examples = Examples(batch.x_1.numpy(), batch.labels.numpy(), masks.numpy())
    write_shards(tmp_path / "masked", [examples], num_classes=10)
    label = {"kind": "channels", "classes": {"kind": "one_hot"}}
    changed = {
        "data": ShardsConfig.resolved({"kind": "shards", "path": str(tmp_path / "masked"), "held_out": 30}),
        "flow": {"coupling": {"kind": "symmetric", "label": label}},
    }
    run, out, page = untrained_run(tmp_path / "run", {**RUN, **changed}), tmp_path / "f.json", tmp_path / "p.html"
    words = ["--evaluations", "1", "--num", "20", "--out", str(out), "--page", str(page)]
    assert main(["evaluate", str(run), *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "classes of 30 held-out images read" in shown
    assert "masks of 30 held-out images: intersection over union" in shown
    document = json.loads(out.read_text())
    jsonschema.validate(document, json.loads((ROOT / "configs/schemas/evaluation.schema.json").read_text()))
    assert document["masks"]["threshold"] > 0.95, "these masks are a threshold of the brightness"
    assert 0 < document["masks"]["intersection_over_union"]["8"] < 0.9, "and an untrained network reads none"
    assert "Masks it reads" in page.read_text()
    assert main(["sample", str(run), "--num", "6", "--out", str(tmp_path / "drawn.png")]) == 0
