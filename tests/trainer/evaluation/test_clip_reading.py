"""Clips that a run draws: sheet, GIF and motion, from the command to its files."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from PIL import Image

from tests.forked import ROOT
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.evaluation.readings import motion

RUN = {
    "data": {"kind": "moving_pictures", "pictures": {"kind": "digits", "held_out": 30}, "pad": 4, "window": 12},
    "model": {"kind": "dit", "patch_size": 4, "hidden": 16, "num_layers": 1, "num_heads": 2},
    "flow": {"context": {"kind": "first_frame"}},
    "sample": {"kind": "clips", "num": 3, "sampler": {"kind": "euler", "steps": 2}},
}


def test_motion_is_the_mean_difference_of_neighbouring_frames() -> None:
    clips = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.5, 1.5)]).flatten(0, 1)[None]
    assert motion(clips, 3) == pytest.approx(0.75)


def test_the_file_has_what_moves_and_a_sheet_and_a_gif_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 500)
    run, out, page = untrained_run(tmp_path / "run", RUN), tmp_path / "figures.json", tmp_path / "page.html"
    words = ["--evaluations", "1", "--num", "20", "--out", str(out), "--page", str(page)]
    assert main(["evaluate", str(run), *words]) == 0
    assert "times that of held-out clips" in " ".join(capsys.readouterr().out.split())
    document = json.loads(out.read_text())
    jsonschema.validate(document, json.loads((ROOT / "configs/schemas/evaluation.schema.json").read_text()))
    assert document["clips"]["shift"] > 0, "no weight of an untrained run is zero"
    assert document["clips"]["motion"]["ratio"] > 1, "noise moves more than pictures"
    assert "Motion" in page.read_text()
    assert main(["sample", str(run), "--num", "5", "--out", str(tmp_path / "drawn.png")]) == 0
    with Image.open(tmp_path / "drawn.gif") as animated:
        assert getattr(animated, "n_frames", 0) == 4
    assert (tmp_path / "drawn.png").stat().st_size > 0
