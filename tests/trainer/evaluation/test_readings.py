"""What samples of each kind are read as: what the evaluate verb writes and shows of them, and the sample verb draws."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from tests.forked import ROOT
from tests.trainer.commands import refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.config.file import resolve
from trainer.data import DigitsConfig, ShardsConfig, build, write_shards
from trainer.data.reactions import Reactions, read_reactions
from trainer.data.shard.writer import Examples
from trainer.evaluation.reaction_reading import distances
from trainer.evaluation.readings import divergence, motion

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "evaluation.schema.json").read_text())
DIT = {"kind": "dit", "patch_size": 4, "hidden": 16, "num_layers": 1, "num_heads": 2}
EULER = {"kind": "euler", "steps": 2}
LETTERS: dict[str, Any] = {
    "model": {**DIT, "patch_size": 1},
    "flow": {"path": {"kind": "gumbel_softmax"}, "target": {"kind": "token"}, "objective": {"kind": "cross_entropy"}},
    "sample": {"kind": "sequences", "num": 12, "sampler": EULER},
}
LABELS: dict[str, Any] = {
    "data": {"kind": "digits", "held_out": 30},
    "model": {**DIT, "label_dropout": 0.0},
    "flow": {"coupling": {"kind": "symmetric", "label": {"kind": "one_hot"}}},
    "sample": {"per_class": 1, "guidance": 1.0},
}
REACTIONS: dict[str, Any] = {
    "data": {"kind": "reactions", "held_out": 9},
    "model": {"kind": "equivariant", "hidden": 16, "num_layers": 1},
    "flow": {"coupling": {"kind": "ends"}, "target": {"kind": "data"}},
    "sample": {"kind": "reactions", "num": 3, "sampler": EULER},
}
CLIPS: dict[str, Any] = {
    "data": {"kind": "moving_pictures", "pictures": {"kind": "digits", "held_out": 30}, "pad": 4, "window": 12},
    "model": DIT,
    "flow": {"context": {"kind": "first_frame"}},
    "sample": {"kind": "clips", "num": 3, "sampler": EULER},
}


class Read(NamedTuple):
    """What the evaluate verb said, and its file and page."""

    said: str
    figures: dict[str, Any]
    page: str


@pytest.fixture
def read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Evaluates samples of an untrained run of some sections, in `tmp_path`/run, against 500 real examples."""
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 500)

    def evaluated(sections: dict[str, Any], num: int = 20) -> Read:
        document = {"run": {"dir": "r"}, "optim": {"steps": 10, "global_batch": 8}, **sections}
        resolved = resolve(document).document
        run = untrained_run(tmp_path / "run", {name: part for name, part in resolved.items() if name != "run"})
        out, page = tmp_path / "figures.json", tmp_path / "page.html"
        words = ["--evaluations", "1", "--num", str(num), "--out", str(out), "--page", str(page)]
        assert main(["evaluate", str(run), *words]) == 0
        figures = json.loads(out.read_text())
        jsonschema.validate(figures, SCHEMA)
        return Read(" ".join(capsys.readouterr().out.split()), figures, page.read_text())

    return evaluated


def drawn(folder: Path, *words: str) -> Path:
    """The picture of samples of the run in a folder."""
    assert main(["sample", str(folder / "run"), *words, "--out", str(folder / "drawn.png")]) == 0
    assert (folder / "drawn.png").read_bytes().startswith(b"\x89PNG")
    return folder / "drawn.png"


def test_sequences(read: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sequences.txt").write_text("CAG\t60\nGAU\t30\nUUU\t20\n")
    data = {"kind": "sequences", "path": tmp_path / "sequences.txt", "held_out": 20}
    said, figures, page = read({**LETTERS, "data": data})
    assert "nats from the data (held-out" in said
    found = figures["sequences"]
    assert found["sequences"] == 20
    assert found["new"]["held_out"] == 0
    assert found["new"]["drawn"] > 0.3, "an untrained network draws what it has not seen"
    assert found["places"]["drawn"] > found["places"]["held_out"]
    assert "two neighbouring places" in page
    lines = drawn(tmp_path).with_suffix(".fasta").read_text().splitlines()
    assert "12 sequences of step_" in capsys.readouterr().out
    assert lines[::2] == [f">{number}" for number in range(1, 13)]
    assert all(len(line) == 3 and set(line) <= set("ACGU") for line in lines[1::2])
    run = tmp_path / "run"
    assert "draws letters, which have no" in refused(capsys, "evaluate", run, "--likelihood", 5, "--out", "a.json")
    assert "run_dir: its states are of letters" in refused(capsys, "steps", run, "--out", "a.json")


def test_labels_of_a_symmetric_flow(read: Any) -> None:
    said, figures, page = read(LABELS)
    assert "classes of 30 held-out images read in one evaluation" in said
    labels, confusion = figures["labels"], np.array(figures["labels"]["confusion"])
    assert confusion.sum() == labels["images"] == 30
    assert labels["accuracy"]["8"] == pytest.approx(np.trace(confusion) / 30)
    assert labels["logistic_regression"] > 0.9
    assert "What it reads" in page


def test_masks_and_classes_are_read_by_one_run(read: Any, tmp_path: Path) -> None:
    digits = build(DigitsConfig(held_out=30))
    batch = digits.get(digits.indices("train")[:90])
    assert batch.labels is not None
    masks = (batch.x_1 > -0.4).float() * 2 - 1
    examples = Examples(batch.x_1.numpy(), batch.labels.numpy(), masks.numpy())
    write_shards(tmp_path / "masked", [examples], num_classes=10)
    label = {"kind": "channels", "classes": {"kind": "one_hot"}}
    data = ShardsConfig.resolved({"kind": "shards", "path": str(tmp_path / "masked"), "held_out": 30})
    said, figures, page = read({**LABELS, "data": data, "flow": {"coupling": {"kind": "symmetric", "label": label}}})
    assert "classes of 30 held-out images read" in said
    assert "masks of 30 held-out images: intersection over union" in said
    assert figures["masks"]["threshold"] > 0.95, "these masks are a threshold of the brightness"
    assert 0 < figures["masks"]["intersection_over_union"]["8"] < 0.9, "and an untrained network reads none"
    assert "Masks it reads" in page
    drawn(tmp_path, "--num", "6")


def test_transition_states(read: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said, figures, page = read(REACTIONS, num=5)
    assert "from the true transition states" in said
    assert figures["reactions"]["reactions"] == 5
    assert figures["reactions"]["drawn"]["mirrored"] <= figures["reactions"]["drawn"]["turned"]
    assert "Transition states" in page
    found = read_reactions(drawn(tmp_path, "--num", "4").with_suffix(".xyz"))
    assert found.positions.shape == (4, 3, 17, 3)
    line = refused(capsys, "evaluate", tmp_path / "run", "--likelihood", 2, "--out", tmp_path / "x.json")
    assert "draws atoms, some of which stay where they are and have no density" in line


def test_clips(read: Any, tmp_path: Path) -> None:
    said, figures, page = read(CLIPS)
    assert "times that of held-out clips" in said
    assert figures["clips"]["shift"] > 0, "no weight of an untrained run is zero"
    assert figures["clips"]["motion"]["ratio"] > 1, "noise moves more than pictures"
    assert "Motion" in page
    with Image.open(drawn(tmp_path, "--num", "5").with_suffix(".gif")) as animated:
        assert getattr(animated, "n_frames", 0) == 4


def test_motion_is_the_mean_difference_of_neighbouring_frames() -> None:
    clips = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 0.5, 1.5)]).flatten(0, 1)[None]
    assert motion(clips, 3) == pytest.approx(0.75)


def test_the_divergence_is_that_of_each_place() -> None:
    real = np.array([[0, 1]] * 500 + [[1, 0]] * 500)
    assert divergence(real, real, 2, 1) == pytest.approx(0, abs=1e-5)
    mixed = np.array([[0, 0], [1, 1], [0, 1], [1, 0]] * 250)
    assert divergence(mixed, real, 2, 1) == pytest.approx(0, abs=1e-5)
    assert divergence(mixed, real, 2, 2) > 2, "the letters go together"


def test_distances_are_of_free_atoms_and_of_structures_laid_upon_each_other() -> None:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    true = Reactions(positions, np.full((2, 4), 6), np.array([[True, True, False, False]] * 2))
    turned = positions[:, 1] @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).astype(np.float32) + 2
    found = distances(turned, true)
    assert found.turned < 1e-5
    free = np.sqrt(np.square(turned - positions[:, 1])[:, :2].sum(-1).mean(-1)).mean()
    assert found.free == pytest.approx(free, rel=1e-5)
    mirrored = distances(positions[:, 1] * np.array([1, 1, -1], np.float32), true)
    assert mirrored.mirrored < 1e-5 < mirrored.turned
