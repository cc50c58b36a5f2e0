"""Pictures of a request, and the folder of their results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netsim.foundation.refusal import Refusal
from tests.trainer.untrained import untrained_run
from trainer.config.file import load_config
from trainer.flow.context import Identity
from trainer.sampling.requested_pictures import FolderPictures, HeldOutPictures, open_pictures
from trainer.sampling.results_folder import ResultsFolder

DIGITS = {
    "data": {"kind": "digits", "held_out": 20},
    "model": {"kind": "dit", "patch_size": 4, "hidden": 8, "num_layers": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = untrained_run(tmp_path_factory.mktemp("run") / "run", DIGITS)
    return load_config(folder / "checkpoints/step_00000010/config.yaml")


def folder_of_pictures(folder: Path) -> Path:
    """Pictures as people have them: of several sizes and formats, transparent, turned, broken, and none at all."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    Image.fromarray(draws.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "colour.png")
    Image.fromarray(draws.integers(0, 256, (9, 50), dtype=np.uint8)).save(folder / "grey.jpg")
    (folder / "deeper").mkdir()
    Image.fromarray(draws.integers(0, 256, (16, 16, 4), dtype=np.uint8)).save(folder / "deeper" / "transparent.png")
    (folder / "broken.png").write_bytes(b"no picture at all")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


def test_held_out_pictures_are_the_examples_of_the_split_in_their_order(config):
    whole = open_pictures(HeldOutPictures(num=8), config, Identity())
    later = open_pictures(HeldOutPictures(num=4, first=3), config, Identity())
    assert later.names == whole.names[3:7]
    assert torch.equal(later.readable(torch.arange(4))[0], whole.readable(torch.arange(3, 7))[0])
    assert later.labels is not None
    assert whole.labels is not None
    assert torch.equal(later.labels, whole.labels[3:7])
    with pytest.raises(ValueError, match=r"pictures.first: 20 leaves none of the 20 held-out examples; use less"):
        open_pictures(HeldOutPictures(first=20), config, Identity())


def test_a_key_depends_on_name_purpose_and_seed_alone(config):
    whole = open_pictures(HeldOutPictures(num=8), config, Identity())
    later = open_pictures(HeldOutPictures(num=4, first=3), config, Identity())
    keys = whole.keys(torch.arange(8), "noise", seed=1)
    assert torch.equal(later.keys(torch.arange(4), "noise", seed=1), keys[3:7])
    assert len({*keys.tolist(), *whole.keys(torch.arange(8), "noise", seed=2).tolist()}) == 16
    assert not set(keys.tolist()) & set(whole.keys(torch.arange(8), "mask", seed=1).tolist())


def test_a_folder_is_read_in_the_shape_of_the_run_and_names_what_cannot_be_read(config, tmp_path):
    folder = folder_of_pictures(tmp_path / "pictures")
    pictures = open_pictures(FolderPictures(kind="folder", path=folder), config, Identity())
    assert pictures.names == ("broken.png", "colour.png", "deeper/transparent.png", "grey.jpg")
    images, reasons = pictures.readable(torch.arange(4))
    assert images.shape == (4, 1, 8, 8)
    assert images.abs().max() <= 1
    assert list(reasons) == [0]
    assert reasons[0].startswith("broken.png (is no picture of a format that is read")
    assert torch.equal(pictures.readable(torch.tensor([3, 1]))[0], images[[3, 1]])


def test_pictures_are_listed_by_their_names(config, tmp_path):
    folder = folder_of_pictures(tmp_path / "pictures")
    some = open_pictures(FolderPictures(kind="folder", path=folder, num=2, first=1), config, Identity())
    assert some.names == ("colour.png", "deeper/transparent.png")


def test_folders_without_pictures_are_refused(config, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        tmp_path / "none": r"pictures\.path: .*none is missing; give a folder of pictures",
        empty: r"pictures\.path: .*empty contains no pictures; give a folder of files that end in",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message):
            open_pictures(FolderPictures(kind="folder", path=path), config, Identity())
    (empty / "a.png").write_bytes(b"")
    pictures = open_pictures(FolderPictures(kind="folder", path=empty), config, Identity())
    with pytest.raises(ValueError, match=r"pictures\.path: none of its pictures can be read, a\.png \(.*\); give"):
        pictures.check_some_readable("pictures.path")


def test_results_are_found_again_and_belong_to_one_request_and_one_picture(tmp_path):
    record = {"request": {"noise": 0.1, "seed": 0}, "weights": "abc"}
    results = ResultsFolder(tmp_path / "out", record)
    results.check()
    results.begin()
    values = {"restored": torch.randn(4, 1, 8, 8), "label": torch.arange(3)}
    results.write("deeper/a.png", values, "12")
    results.write("bad.png", {}, "7", problem="bad.png (no picture)")
    again = ResultsFolder(tmp_path / "out", record)
    again.check()
    assert again.has("deeper/a.png", "12")
    assert not again.has("deeper/a.png", "13")
    assert not again.has("b.png")
    assert again.problem("bad.png") == "bad.png (no picture)"
    assert again.problem("deeper/a.png") == ""
    found = again.read("deeper/a.png")
    assert all(torch.equal(found[name], values[name]) for name in values)


def test_the_results_of_another_request_are_refused_by_what_differs(tmp_path):
    record = {"request": {"noise": 0.1, "seed": 0}, "weights": "abc"}
    ResultsFolder(tmp_path / "out", record).begin()
    other = ResultsFolder(tmp_path / "out", {**record, "request": {"noise": 0.2, "seed": 0}})
    with pytest.raises(Refusal, match=r"request\.json: request\.noise: is 0\.1 there but 0\.2 is asked for; give an"):
        other.check()
    assert json.loads((tmp_path / "out" / "request.json").read_text()) == record


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(Refusal, match=r"--out: is a file; name a folder"):
        ResultsFolder(tmp_path / "thesis.txt", {}).check()


def test_what_was_not_finished_is_removed(tmp_path):
    results = ResultsFolder(tmp_path / "out", {})
    results.begin()
    partial = tmp_path / "out" / "arrays" / ".a.png.safetensors.123.partial"
    partial.parent.mkdir()
    partial.write_bytes(b"half")
    results.begin()
    assert not partial.exists()
