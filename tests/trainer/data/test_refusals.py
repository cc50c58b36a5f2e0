"""Malformed data sets and sections: one line with file, field and remedy, before anything is joined or written."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.trainer.commands import contents, refused
from tests.trainer.data.pictures import folder, picture
from trainer.data import write_shards

DIT = "run: {{dir: {run}}}\nmodel: {{hidden: 16, num_layers: 1}}\noptim: {{steps: 1, global_batch: 4}}\ndata: {data}\n"
IMAGES = {"kind": "image_folder", "size": 8, "held_out": 4}
SHARDS = {"kind": "shards", "held_out": 4}
X = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)
Y = np.arange(20) % 5


def command_line(tmp_path: Path, data: dict[str, Any], *overrides: str) -> list[object]:
    config = tmp_path / "run.yaml"
    config.write_text(DIT.format(run=tmp_path / "run", data=json.dumps(data)))
    return [config, *overrides]


IMAGE_CASES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str, str]] = {
    "no folder": (lambda _: None, {"path": "/nowhere"}, "data.path", "a folder with a sub-folder"),
    "a file": (lambda path: (path / "f").write_text(""), {"path": "f"}, "data.path", "a folder with"),
    "an empty folder": (lambda path: (path / "f").mkdir(), {"path": "f"}, "data.path", ".png"),
    "an empty class": (lambda path: (path / "images" / "eel").mkdir(), {}, "data.path", "eel holds no pictures"),
    "a class that is not there": (lambda _: None, {"classes": ["cat", "cow"]}, "data.classes", "cow is no folder"),
    "a class outside": (lambda _: None, {"classes": ["../images"]}, "data.classes", "without slashes"),
    "a class upwards": (lambda _: None, {"classes": [".."]}, "data.classes", "without slashes"),
    "a class twice": (lambda _: None, {"classes": ["cat", "cat"]}, "data.classes", "each once"),
    "a number for classes": (lambda _: None, {"classes": 2}, "data.classes", "correct"),
    "all held out": (lambda _: None, {"held_out": 20}, "data.held_out", "hold out fewer"),
    "nothing held out": (lambda _: None, {"held_out": 0}, "data.held_out", "greater than 0"),
    "no size": (lambda _: None, {"size": 0}, "data.size", "greater than 0"),
    "two channels": (lambda _: None, {"channels": 2}, "data.channels", "1 or 3"),
    "an unknown key": (lambda _: None, {"sizes": 8}, "data.sizes", "name"),
    "no path": (lambda _: None, {"path": None}, "data.path", "path"),
    "patches": (lambda _: None, {"size": 9}, "model.patch_size", "1, 3, 9"),
    "other pictures": (lambda _: None, {"digest": "0" * 16}, "data.digest", "another run"),
}


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_image_folders(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spoil, changes, field, remedy = IMAGE_CASES[case]
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "images")
    spoil(tmp_path)
    arguments = command_line(tmp_path, {**IMAGES, "path": "images", **changes})
    assert_refused(tmp_path, capsys, arguments, field, remedy)


def edited(**changes: Any) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        index = json.loads((path / "index.json").read_text())
        (path / "index.json").write_text(json.dumps({**index, **changes}))

    return edit


def shard(**arrays: np.ndarray) -> Callable[[Path], object]:
    return lambda path: save_file(arrays, path / "shard_00001.safetensors")


def first(shards: list[dict[str, Any]]) -> Callable[[Path], object]:
    return edited(shards=shards)


def compressed(path: Path) -> None:
    np.savez_compressed(path / "a.npz", data=X, labels=Y)
    edited(shards=[{"file": "a.npz", "num_examples": 20}])(path)


def pickled(path: Path) -> None:
    np.savez(path / "a.npz", data=np.array([{}] * 20, dtype=object), labels=Y)
    edited(shards=[{"file": "a.npz", "num_examples": 20}])(path)


def no_npz(path: Path) -> None:
    with zipfile.ZipFile(path / "a.npz", "w") as archive:
        archive.writestr("data.npy", b"no array")
    edited(shards=[{"file": "a.npz", "num_examples": 20}])(path)


def cut(path: Path) -> None:
    target = path / "shard_00001.safetensors"
    target.write_bytes(target.read_bytes()[:-9])


NAN = float("nan")
SHARD_CASES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str, str]] = {
    "no folder": (lambda _: None, {"path": "/nowhere"}, "index.json", "a folder of shards"),
    "no index": (lambda path: (path / "index.json").unlink(), {}, "index.json", "write the folder again"),
    "an index that is no JSON": (lambda path: (path / "index.json").write_text("{"), {}, "not JSON", "write"),
    "an index that is a list": (lambda path: (path / "index.json").write_text("[]"), {}, "document", "write"),
    "a later format": (edited(format="flowfabric.shards/2"), {}, "format", "write"),
    "no shape": (edited(shape=[]), {}, "shape", "write"),
    "doubles": (edited(dtype="float64"), {}, "dtype", "write"),
    "no shards": (edited(shards=[]), {}, "shards", "write"),
    "a shard outside": (first([{"file": "../a.npz", "num_examples": 20}]), {}, "shards.0.file", "write"),
    "a shard of another kind": (first([{"file": "a.pt", "num_examples": 20}]), {}, "shards.0.file", "write"),
    "a shard twice": (first([{"file": "shard_00000.safetensors", "num_examples": 9}] * 2), {}, "twice", "write"),
    "scale of other channels": (edited(scale=[1.0, 1.0]), {}, "scale", "write"),
    "scale 0": (edited(scale=[0.0]), {}, "scale.0", "write"),
    "shift that is no number": (edited(shift=[NAN]), {}, "shift.0", "write"),
    "all held out": (lambda _: None, {"held_out": 20}, "data.held_out", "hold out fewer"),
    "another index": (lambda _: None, {"digest": "0" * 16}, "data.digest", "another run"),
    "another shape": (lambda _: None, {"shape": [1, 4, 4]}, "data.shape", "another run"),
    "other classes": (lambda _: None, {"num_classes": 7}, "data.num_classes", "another run"),
    "a missing shard": (lambda path: (path / "shard_00001.safetensors").unlink(), {}, "00001", "bring it back"),
    "a cut shard": (cut, {}, "shard_00001.safetensors: shard", "write"),
    "a shard without data": (shard(labels=Y[12:]), {}, "shard_00001.safetensors: data", "missing"),
    "a shard without labels": (shard(data=X[12:]), {}, "shard_00001.safetensors: labels", "missing"),
    "a shard of other shape": (shard(data=X[12:, :, :4], labels=Y[12:]), {}, "data: has shape (8, 1, 4, 8)", "write"),
    "a shard of other length": (shard(data=X[13:], labels=Y[13:]), {}, "data: has shape (7, 1, 8, 8)", "write"),
    "a shard of other type": (
        shard(data=X[12:].astype(np.float16), labels=Y[12:]),
        {},
        "data: is float16 where the index says float32",
        "write",
    ),
    "labels of other length": (shard(data=X[12:], labels=Y[13:]), {}, "labels: has shape (7,)", "write"),
    "labels that are no whole numbers": (shard(data=X[12:], labels=Y[12:] / 2), {}, "labels: is float64", "int64"),
    "a compressed shard": (compressed, {}, "a.npz: shard", "numpy.savez"),
    "a shard of objects": (pickled, {}, "a.npz: shard", "numbers alone"),
    "a shard that is no archive": (lambda path: cut_npz(path), {}, "a.npz: shard", "write"),
    "an array that is none": (no_npz, {}, "a.npz: shard", "write"),
}


def cut_npz(path: Path) -> None:
    (path / "a.npz").write_bytes(b"PK")
    edited(shards=[{"file": "a.npz", "num_examples": 20}])(path)


@pytest.mark.parametrize("case", SHARD_CASES)
def test_shards(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    spoil, changes, field, remedy = SHARD_CASES[case]
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards", [(X, Y)], num_classes=5, shard_examples=12)
    spoil(tmp_path / "shards")
    arguments = command_line(tmp_path, {**SHARDS, "path": "shards", **changes})
    assert_refused(tmp_path, capsys, arguments, field, remedy)


OTHER_CASES: dict[str, tuple[list[str], str, str]] = {
    "an unknown set": (["data={kind: toy, name: donut}", "model={kind: mlp}"], "data.name", "moons"),
    "no points": (["data={kind: toy, num_examples: 0}", "model={kind: mlp}"], "data.num_examples", "greater than 0"),
    "points for a transformer": (["data={kind: toy}"], "data.kind", "digits or image_folder or shards"),
    "digits for an mlp": (["data={kind: digits}", "model={kind: mlp}"], "data.kind", "toy or shards"),
    "odd width": (["data={kind: toy}", "model={kind: mlp, hidden: 3}"], "model.hidden", "use 4"),
    "grids of points": (["data={kind: toy}", "model={kind: mlp}", "sample={kind: images}"], "sample.kind", "points"),
    "images for an mlp": (["model={kind: mlp}"], "data.path", "dit model"),
    "a negative number ahead": (["data_loading.prefetch=-1"], "data_loading.prefetch", "greater"),
    "no workers": (["data_loading.workers=0"], "data_loading.workers", "greater"),
    "everything may be bad": (["data_loading.max_bad_share=1"], "data_loading.max_bad_share", "less than 1"),
    "a share that is none": (["data_loading.max_bad_share=.nan"], "data_loading.max_bad_share", "finite"),
}


@pytest.mark.parametrize("case", OTHER_CASES)
def test_sections(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    overrides, field, remedy = OTHER_CASES[case]
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards", [(X, Y)], num_classes=5)
    assert_refused(tmp_path, capsys, command_line(tmp_path, {**SHARDS, "path": "shards"}, *overrides), field, remedy)


def test_vectors_for_a_transformer_and_channels_that_are_no_picture(tmp_path: Path, capsys: Any) -> None:
    write_shards(tmp_path / "vectors", [(X[:, 0, 0], None)])
    write_shards(tmp_path / "latents", [(np.repeat(X, 4, axis=1), None)])
    vectors = {**SHARDS, "path": str(tmp_path / "vectors")}
    assert_refused(tmp_path, capsys, command_line(tmp_path, vectors), "data.path", "use an mlp model")
    latents = {**SHARDS, "path": str(tmp_path / "latents")}
    assert_refused(tmp_path, capsys, command_line(tmp_path, latents, "sample.every=1"), "sample.every", "use null")


def test_a_folder_of_pictures_may_go_once_the_run_is_configured(tmp_path: Path, capsys: Any) -> None:
    picture(folder(tmp_path / "images") / "cat" / "more.png", 7)
    arguments = command_line(tmp_path, {**IMAGES, "path": str(tmp_path / "images"), "classes": ["cat"], "digest": "x"})
    for path in (tmp_path / "images" / "cat").iterdir():
        path.unlink()
    assert_refused(tmp_path, capsys, arguments, "pictures", "bring them back")


def assert_refused(tmp_path: Path, capsys: Any, arguments: list[object], field: str, remedy: str) -> None:
    before = contents(tmp_path)
    line = refused(capsys, "train", *arguments)
    assert field in line
    assert remedy in line
    assert contents(tmp_path) == before
    assert not torch.distributed.is_initialized()
