"""Transition states that a run draws: files, distances and energies, from the command to its files."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.forked import ROOT
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.config.file import resolve
from trainer.data.reactions import Reactions, read_reactions
from trainer.evaluation.reaction_reading import distances

RUN = {
    "data": {"kind": "reactions", "held_out": 9},
    "model": {"kind": "equivariant", "hidden": 16, "num_layers": 1},
    "flow": {"coupling": {"kind": "ends"}, "target": {"kind": "data"}},
    "sample": {"kind": "reactions", "num": 3, "sampler": {"kind": "euler", "steps": 2}},
}


def test_distances_are_of_free_atoms_and_of_structures_laid_upon_each_other() -> None:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    true = Reactions(positions, np.full((2, 4), 6), np.array([[True, True, False, False]] * 2))
    turned = positions[:, 1] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).astype(np.float32) + 2
    found = distances(turned, true)
    assert found.turned < 1e-5
    assert found.free == pytest.approx(
        np.sqrt(np.square(turned - positions[:, 1])[:, :2].sum(-1).mean(-1)).mean(), rel=1e-5
    )
    mirrored = distances(positions[:, 1] * np.array([1, 1, -1], np.float32), true)
    assert mirrored.mirrored < 1e-5 < mirrored.turned


def test_the_file_has_distances_and_triples_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out, page = tmp_path / "run", tmp_path / "figures.json", tmp_path / "page.html"
    document = {"run": {"dir": str(folder)}, "optim": {"steps": 10, "global_batch": 8}, **RUN}
    run = untrained_run(folder, {name: part for name, part in resolve(document).document.items() if name != "run"})
    words = ["--evaluations", "1", "--num", "5", "--out", str(out), "--page", str(page)]
    assert main(["evaluate", str(run), *words]) == 0
    assert "from the true transition states" in " ".join(capsys.readouterr().out.split())
    figures = json.loads(out.read_text())
    jsonschema.validate(figures, json.loads((ROOT / "configs/schemas/evaluation.schema.json").read_text()))
    assert figures["reactions"]["reactions"] == 5
    assert figures["reactions"]["drawn"]["mirrored"] <= figures["reactions"]["drawn"]["turned"]
    assert "Transition states" in page.read_text()
    assert main(["sample", str(run), "--num", "4", "--out", str(tmp_path / "drawn.png")]) == 0
    drawn = read_reactions(tmp_path / "drawn.xyz")
    assert drawn.positions.shape == (4, 3, 17, 3)
    assert (tmp_path / "drawn.png").stat().st_size > 0
    assert main(["evaluate", str(run), *words, "--likelihood", "2"]) == 2
    assert "draws atoms, some of which stay where they are and have no density" in capsys.readouterr().err
