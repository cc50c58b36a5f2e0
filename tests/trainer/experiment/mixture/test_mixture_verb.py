"""The verb: what it refuses, what it trains once, and the shares that a run takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.data.mixture import MixtureFile
from trainer.distributed.process.children import Stopped
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.experiment.comparison.training import Training
from trainer.experiment.mixture.pilots import KEPT, Judge
from trainer.training.guard import RunFailed

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "mixture.schema.json").read_text())
MOONS = {"kind": "toy", "name": "moons", "num_examples": 200, "held_out": 20, "classes": True}
SOURCES = {"moons": MOONS, "others": {**MOONS, "seed": 1}, "again": {**MOONS, "seed": 2}}
BASE: dict[str, Any] = {
    "run": {"dir": "unused", "seed": 3},
    "data": {"kind": "mixture", "sources": SOURCES},
    "model": {"kind": "mlp", "hidden": 8, "num_layers": 1},
    "optim": {"steps": 8, "global_batch": 8},
    "checkpoint": {"every": 100},
    "sample": {"sampler": {"kind": "euler", "steps": 2}},
}
DIGITS = {"kind": "mixture", "sources": {"a": {}, "b": {"rotate": 90}}}
GPT = {"kind": "gpt", "hidden": 16, "context": 8}


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**BASE, **sections}, sort_keys=False))
    return path


def words(config: Path, **changes: str) -> list[str]:
    options = {"sizes": "10,20", "target": "40", "num": "20", "out": str(config.parent / "mixture.json")}
    options |= {"pilots": str(config.parent / "pilots"), "page": str(config.parent / "mixture.html"), **changes}
    return ["mixture", str(config), *(f"--{name}={value}" for name, value in options.items())]


def of_data(**changes: Any) -> dict[str, Any]:
    return {"data": {"kind": "mixture", "sources": SOURCES, **changes}}


@each(
    ("sections", "options", "line"),
    [
        ({}, {"sizes": "20"}, "--sizes: 1 are given; give a small and a large one, such as 200,400"),
        ({}, {"sizes": "a,b"}, "--sizes: 'a,b' is not a list of whole numbers of 1 or more; use for example 200,400"),
        ({}, {"sizes": "20,10"}, "--sizes: 20,10 do not grow; give the small one first"),
        ({}, {"sizes": "10,15"}, "--sizes: 15 is less than 2 times 10, and errors would grow where"),
        ({}, {"target": "20"}, "--target: 20 is not above --sizes; use more than 20"),
        ({}, {"target": "4000"}, "--target: errors of pilots would be multiplied by 16.3 from 10,20 to"),
        ({}, {"grid": "1"}, "--grid: 1 makes 3 mixes of 3 sources, fewer than three for each of two"),
        ({}, {"grid": "60"}, "--grid: 60 makes 1891 mixes of 3 sources; use a smaller one"),
        ({}, {"seeds": "0"}, "--seeds: 0 is below 1; use 1 or more"),
        ({}, {"wanted": "other"}, "--wanted: other is no source; write others"),
        ({}, {"sizes": "110,220", "target": "400"}, "--sizes: moons has 200 training examples, and pilots of"),
        ({"data": MOONS}, {}, "data.kind: is toy, and shares are of a mixture; use kind: mixture"),
        (of_data(size=30), {}, "data.size: is 30, and each pilot has a size of its own; leave it out"),
        (
            of_data(shares={"moons": 1.0, "others": 0.0, "again": 0.0}),
            {},
            "data.sources: only moons is mixed, the others have the share 0; give two or more with shares above 0",
        ),
        (
            of_data(
                sources={**SOURCES, "new": {**MOONS, "num_examples": None}},
                shares=dict.fromkeys((*SOURCES, "new"), 0.25),
            ),
            {},
            "data.sources.new: is endless, and no size reveals a part of it; give it a number of examples",
        ),
        (of_data(sources={"a": {"kind": "pairs", "path": "p"}}), {}, "data.sources.a"),
        ({"stages": [{"name": "one", "train": {}}]}, {}, "stages: are several runs, and a pilot is one; give a"),
        (
            of_data(sources={name: {**MOONS, "classes": False} for name in SOURCES}),
            {"measure": "class_accuracy"},
            "--measure: class_accuracy needs classes, and the data have none; use frechet_distance",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    sections: dict[str, Any], options: dict[str, str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, **sections)
    assert line in refused(capsys, *words(config, **options))
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_text_has_no_distance_and_an_autoencoder_no_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = {
        "kind": "mixture",
        "sources": {"a": {"kind": "python_source", "context": 8}, "b": {"kind": "python_source", "context": 8}},
    }
    config = written(tmp_path, data=text, model=GPT, sample={})
    assert "data.sources: are text, of which no distance is defined; give" in refused(capsys, *words(config))
    config = written(tmp_path, data=DIGITS, model={"kind": "autoencoder"}, sample={})
    line = refused(capsys, *words(config, measure="frechet_distance"))
    assert "--measure: frechet_distance is of pictures or points that a flow draws; use held_out_loss" in line


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pilots that were trained, none of them really; a pilot is as wrong as its share of others."""
    names: list[str] = []

    def train(_: Training, method: Any, config: Path, folder: Path, seed: int, progress: Callable[[str], None]) -> None:
        del config, seed, progress
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "time": {"step_s": 2.0}}\n')
        (folder / "checkpoints").mkdir(exist_ok=True)
        names.append(method.name)

    def measured(_: Judge, run_dir: Path, seed: int) -> float:
        assert seed == 3
        data = yaml.safe_load((run_dir.parent / "method.yaml").read_text())["data"]
        return (1 + data["shares"]["others"] + 0.5 * data["shares"]["again"]) * data["size"] ** -0.5

    monkeypatch.setattr(Training, "run", train)
    monkeypatch.setattr(Judge, "measured", measured)
    return names


def test_pilots_are_of_every_mix_and_size_and_the_pick_is_a_file_that_a_run_takes(
    trained: list[str], tmp_path: Path
) -> None:
    config = written(tmp_path)
    assert main(words(config, grid="3", wanted="moons")) == 0
    assert len(trained) == len(set(trained)) == 20
    documents = [yaml.safe_load((tmp_path / "pilots" / name / "method.yaml").read_text()) for name in trained]
    assert {(one["data"]["size"], one["optim"]["steps"]) for one in documents} == {(10, 2), (20, 4)}
    assert all(sum(one["data"]["shares"].values()) == pytest.approx(1) for one in documents)
    found = MixtureFile.read(tmp_path / "mixture.json")
    jsonschema.validate(json.loads((tmp_path / "mixture.json").read_text()), SCHEMA)
    figures = found.figures or {}
    assert figures["amplification"] == pytest.approx(3)
    assert (figures["pilot_steps"], figures["run_steps"], figures["pilot_seconds"]) == (60, 8, 40.0)
    low, high = figures["one_deviation"]
    assert low <= figures["projected"] <= high
    page = (tmp_path / "mixture.html").read_text()
    for text in ("projected, 40 examples", "moons", "The best mixes", "errors of pilots, at most", "data.shares="):
        assert text in page
    data: Any = load_config(config, [f"data.shares={tmp_path / 'mixture.json'}"]).data
    assert data.shares == found.shares


def test_a_source_that_is_not_mixed_may_be_wanted(trained: list[str], tmp_path: Path) -> None:
    shares = {"moons": 0.5, "others": 0.5, "again": 0.0}
    assert main(words(written(tmp_path, **of_data(shares=shares)), wanted="again")) == 0
    assert len(trained) == 12
    assert MixtureFile.read(tmp_path / "mixture.json").shares["again"] == 0
    assert "share of moons, the rest others" in (tmp_path / "mixture.html").read_text()


@pytest.mark.usefixtures("blank_pictures_here")
def test_what_was_stopped_goes_on_with_the_same_settings_and_a_pilot_that_fails_ends_the_search(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request, done = words(written(tmp_path), grid="2"), Training.run

    def stopped(own: Training, method: Any, *rest: Any) -> None:
        if len(trained) == 3:
            raise Stopped
        done(own, method, *rest)

    monkeypatch.setattr(Training, "run", stopped)
    assert main(request) == EX_TEMPFAIL
    assert not (tmp_path / "mixture.json").exists()

    def failed(_: Training, method: Any, *__: Any) -> None:
        raise RunFailed(f"{method.name} broke")

    monkeypatch.setattr(Training, "run", failed)
    assert main(request) == 1
    assert "12 of 12 pilots failed: 10_moons1.000 broke" in capsys.readouterr().err
    monkeypatch.setattr(Training, "run", done)
    assert main(request) == 0
    before, done_by_now = contents(tmp_path), len(trained)
    line = refused(capsys, *request, "optim.lr=0.5")
    assert "optim.lr: was None when its runs were trained, and is 0.5 now; give another --pilots, or delete" in line
    assert (contents(tmp_path), len(trained)) == (before, done_by_now)


@pytest.mark.slow
def test_real_pilots_are_measured_once_and_a_deleted_one_is_trained_again(tmp_path: Path) -> None:
    """Six mixes of two sources at two sizes; the figures and the shares are the same after a restart."""
    shares = {"moons": 0.5, "others": 0.5, "again": 0.0}
    config = written(tmp_path, **of_data(shares=shares))
    request = words(config, measure="frechet_distance", wanted="again", jobs="2")
    assert main(request) == 0
    pilots, first = tmp_path / "pilots", (tmp_path / "mixture.json").read_bytes()
    kept = {path: path.read_bytes() for path in pilots.glob(f"*/seed_3/{KEPT}")}
    assert len(kept) == 12
    shutil.rmtree(next(iter(kept)).parents[1])
    assert main(request) == 0
    assert {path: path.read_bytes() for path in kept} == kept
    again = (tmp_path / "mixture.json").read_bytes()
    one, two = (json.loads(text) for text in (first, again))
    for document in (one, two):
        del document["figures"]["pilot_seconds"]
    assert one == two
