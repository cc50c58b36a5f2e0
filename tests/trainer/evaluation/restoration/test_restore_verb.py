"""The restore verb on small untrained runs: what it computes, keeps, continues, and refuses."""

import io
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.each import each, rows
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "restoration.schema.json").read_text())
DIT = {"kind": "dit", "patch_size": 4, "hidden": 8, "num_layers": 1, "num_heads": 2, "label_dropout": 0.1}
DIGITS = {"data": {"kind": "digits", "held_out": 20}, "model": DIT}
QUICK = ("method.weight=constant", "method.scale=0.2", "method.steps=4", "samples=2", "together=2")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "digits", DIGITS)


@pytest.fixture(scope="module")
def filled(run: Path) -> Path:
    """Four held-out digits with a hole in the middle."""
    return restored(run, "flair_inpainting", "--num", "4", *QUICK, out=run.parent / "filled")


def restored(run: Path, *words: str, out: Path) -> Path:
    assert main(["restore", str(run), *words, "--out", str(out)]) == 0
    return out


def results(out: Path) -> dict[str, Any]:
    document = json.loads((out / "results.json").read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def arrays(out: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(out / "arrays" / f"{name}.safetensors")


def names(out: Path) -> list[str]:
    return [one["name"] for one in results(out)["pictures"]]


def test_the_visible_part_stays_and_the_figures_are_those_of_the_pictures(filled: Path) -> None:
    document = results(filled)
    assert len(document["pictures"]) == 4
    for one in document["pictures"]:
        found = arrays(filled, one["name"])
        hole = found["hole"][0].bool()
        assert hole.sum() == 16
        truth, samples = found["truth"], found["restored"]
        assert torch.equal(samples[:, :, ~hole], truth[:, ~hole].expand(2, -1, -1))
        assert not torch.equal(samples[0], samples[1])
        assert torch.equal(found["pseudo_inverse"], truth.masked_fill(hole, 0))
        for number, image in enumerate((*samples, samples.mean(0))):
            kept = [*one["error"]["restored"], one["error"]["mean_of_samples"]]
            assert kept[number] == pytest.approx(np.square(image.numpy() - truth.numpy()).mean(), rel=1e-5)
            assert [*one["residual"]["restored"], one["residual"]["mean_of_samples"]][number] < 1e-12
        wanted = float(((samples[0] - samples[1]) ** 2 / 2).mean())
        assert one["variance_of_samples"] == pytest.approx(wanted, rel=1e-4)
        for number, sample in enumerate(samples, start=1):
            written = np.asarray(Image.open(filled / "restored" / f"{one['name']}.{number}.png"))
            assert np.abs(written / 127.5 - 1 - sample[0].clamp(-1, 1).numpy()).max() <= 0.5 / 127.5 + 1e-6
    mean = np.mean([one["error"]["restored"] for one in document["pictures"]])
    assert document["means"]["error"]["restored"] == pytest.approx(mean)
    asked = sum(one["error"]["mean_of_samples"] for one in document["pictures"]) / 1.5
    share = sum(one["variance_of_samples"] for one in document["pictures"]) / asked
    assert document["means"]["variance_share"] == pytest.approx(share)
    assert f"{share:.2f} x" in (filled / "index.html").read_text()
    assert document["evaluations"] == {"of_a_picture": 8, "of_a_sample": 4}


def test_the_page_needs_nothing_else(filled: Path) -> None:
    page = (filled / "index.html").read_text()
    for address in ("www.w3.org", "purl.org", "creativecommons.org"):
        page = page.replace(f"http://{address}", "")
    assert "http" not in page
    for word in ("observed", "pseudo-inverse", "sample 2", "truth", "uncertainty", *names(filled)):
        assert word in page


def test_what_was_deleted_is_made_again_bit_for_bit_and_shown_on_a_terminal(
    run: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    shutil.copytree(filled, out)
    gone = names(out)[1]
    (out / "arrays" / f"{gone}.safetensors").unlink()
    (out / "restored" / f"{gone}.2.png").unlink()
    (out / "index.html").unlink()
    kept = out / "arrays" / f"{names(out)[3]}.safetensors"
    before = kept.stat().st_mtime_ns
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    restored(run, "flair_inpainting", "--num", "4", *QUICK, out=out)
    assert contents(out) == contents(filled)
    assert kept.stat().st_mtime_ns == before
    assert "restoring 4 pictures" in shown.getvalue()


def test_a_calibration_is_kept_and_a_vanished_weight_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.sampling.restoration.EXAMPLES", 16)
    monkeypatch.setattr("trainer.evaluation.restoration.SHOWN", 1)
    words = ("flair_inpainting", "--num", "2", "samples=1", "method.steps=3", "method.scale=0.1")
    out = restored(run, *words, out=tmp_path / "out")
    said = capsys.readouterr()
    document = results(out)
    assert f"largest weight of the prior: {document['weight']['largest']:.3f} of the noise level" in said.out
    assert ("vanishes" in said.out) == document["weight"]["vanished"]
    assert said.err == ""
    kept = json.loads((out / "calibration.json").read_text())
    assert len(kept["errors"]) == 100
    errors = {**kept, "errors": [1.0 + 0.1 * (number < 3) for number in range(100)]}
    (out / "calibration.json").write_text(json.dumps(errors))
    restored(run, *words, out=out)
    assert "The calibrated weight of the prior vanishes" in capsys.readouterr().out
    assert "The calibrated weight of the prior vanishes" in (out / "index.html").read_text()
    assert json.loads((out / "calibration.json").read_text()) == errors


def people_pictures(folder: Path) -> Path:
    draws = np.random.default_rng(0)
    (folder / "deeper").mkdir(parents=True)
    Image.fromarray(draws.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "colour.png")
    Image.fromarray(draws.integers(0, 256, (16, 16, 4), dtype=np.uint8)).save(folder / "deeper" / "transparent.png")
    Image.fromarray(draws.integers(0, 256, (4, 4), dtype=np.uint8)).save(folder / "small.bmp")
    (folder / "broken.png").write_bytes(b"no picture at all")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_a_folder_of_pictures_is_restored_and_a_mended_one_is_made_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.evaluation.restoration.restoration_page", lambda *_: "a page")
    folder = people_pictures(tmp_path / "pictures")
    words = ("flair_deblurring", "--images", str(folder), *QUICK, "together=1")
    out = restored(run, *words, out=tmp_path / "out")
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith(
        "1 of 4 pictures cannot be read and are left out: broken.png (is no picture of a format that is read"
    )
    assert names(out) == ["colour.png", "deeper/transparent.png", "small.bmp"]
    before = contents(out)
    Image.new("RGB", (20, 20), "red").save(folder / "broken.png")
    restored(run, *words, out=out)
    assert names(out)[0] == "broken.png"
    after = contents(out)
    assert all(after[path] == values for path, values in before.items() if path.startswith("restored/"))


REFUSALS = rows("""
none.yaml | none.yaml | No such file | flair_inpainting
empty.yaml | empty.yaml | is empty | configs/requests
run.yaml | run.yaml: run: is not a known key
R operater=1 | operater: is not a known key | write operator
R operator.kind=maks | operator.kind: 'maks' is not one of | use mask
R noise | noise: is not a setting | key=value
R 'operator={kind: average_pool, factor: 3}' | operator.factor: 3 does not divide the 8 x 8 pixels | use one of 2, 4, 8
R noise=-1 | noise: must be greater than or equal to 0 (-1) | use 0 or more
R samples=0 | samples: must be greater than 0 (0) | use 1 or more
R label=eleven | label: there is no class eleven | a number from 0 to 9
R label=own --images pics | label: own needs held-out | null
R guidance=2 | guidance: 2 leads to a label, and there is none | give label
R observed=true | observed: true needs | pictures={kind: folder
R observed=true noise=0.1 --images pics | noise: 0.1 would be added to observations that are given | leave it out
R --images none | pictures.path: none is missing | give a folder of pictures
R --images file | pictures.path: file is a file | give a folder
R --images empty | pictures.path: empty contains no pictures | .png
R --images broken | none of its pictures can be read, a.png | give
R --num 0 | pictures.num: must be greater than 0 (0) | use 1 or more
R pictures.first=20 | pictures.first: 20 leaves none of the 20 held-out | less
R 'operator.mask={kind: picture, path: none.png}' | none.png: mask.path: No such file
| give a picture, white where pixels are hidden
R 'operator.mask={kind: picture, path: black.png}' | black.png: mask.path: hides no pixel | paint
R method.weight=constant method.scale=5 | method.scale: 5 makes the weight of the prior | use a scale below
R 'controls=[{kind: push}]' | controls.0.kind: 'push' is not one of
R 'controls=[{kind: pull, end: source}]' | controls.0.end: source needs the noise of an inversion | use data
R 'operator={class: mine:Operator}' | operator.class: mine cannot be imported | install it
""")
"""Words behind the run, R for flair_inpainting, and what is said of them, in this order."""


def working_folder(folder: Path) -> None:
    for name in ("empty", "broken", "pics", "full"):
        (folder / name).mkdir()
    (folder / "file").write_text("a file")
    (folder / "full" / "thesis.txt").write_text("chapter 1")
    (folder / "empty.yaml").write_text("")
    (folder / "run.yaml").write_text("run: {dir: out}\nmodel: {kind: mlp}\n")
    (folder / "broken" / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 30)).save(folder / "pics" / "p.png")
    Image.new("L", (8, 8)).save(folder / "black.png")


@each("row", REFUSALS)
def test_wrong_input_is_one_line_and_leaves_nothing(
    run: Path, row: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, *told = row
    working_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    asked = ["flair_inpainting" if word == "R" else word for word in shlex.split(words)]
    line = refused(capsys, "restore", run, *asked, "--out", "out")
    place = -1
    for part in told:
        place = line.find(part, place + 1)
        assert place >= 0, line
    assert contents(tmp_path) == before


def test_folders_that_hold_something_else_are_refused(
    run: Path, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    working_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = {
        "file": "file: --out: is a file; name a folder",
        "full": "full: --out: contains other things than results",
        "file/deeper": "file/deeper: --out: cannot be written",
    }
    for out, words in told.items():
        assert refused(capsys, "restore", run, "flair_inpainting", *QUICK, "--out", out).startswith(words)
    line = refused(capsys, "restore", run, "flair_inpainting", "--num", "4", *QUICK, "seed=1", "--out", filled)
    assert "request.json: request.seed: is 0 there but 1 is asked for; give another folder" in line


def test_runs_that_cannot_restore_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = untrained_run(tmp_path / "points", {"data": {"kind": "toy"}, "model": {"kind": "mlp", "hidden": 8}})
    always = untrained_run(tmp_path / "always", {**DIGITS, "model": {**DIT, "label_dropout": 0.0}})
    noisy = {"flow": {"path": {"kind": "stochastic_interpolant"}}}
    told = {
        tmp_path / "none": "does not exist; give the run.dir of a run that has saved a checkpoint",
        points: "run_dir: the run draws examples of shape [2], which are no pictures",
        always: "label: null asks the network about no class, which it never sees with model.label_dropout 0",
        untrained_run(tmp_path / "noisy", {**DIGITS, **noisy}): "run_dir: path: inverse problems need states",
    }
    for folder, words in told.items():
        assert words in refused(capsys, "restore", folder, "flair_inpainting", "--out", tmp_path / "out")
    words = ("flair_inpainting", "label=3", "guidance=2", "--out", tmp_path / "out")
    assert refused(capsys, "restore", always, *words).startswith("guidance: 2.0 asks the network about no class")
    assert not (tmp_path / "out").exists()
