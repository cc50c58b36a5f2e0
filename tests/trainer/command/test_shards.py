"""The shards verb: what a user has becomes shards, whole, in an order of its own, however often it is stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.each import each, rows
from tests.forked import ROOT
from tests.trainer.commands import contents, refused
from tests.trainer.data.pictures import folder, picture
from trainer import data
from trainer.__main__ import main
from trainer.data import ShardsConfig
from trainer.data.conversion.run import ShardsRequest, run
from trainer.data.conversion.source import Reading
from trainer.data.shard.index import ShardIndex, index_schema

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "shards.schema.json").read_text())
GOLDEN = ROOT / "tests" / "files" / "shards"
NUM = 60


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM, *shape), dtype=np.uint8)


def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, NUM)


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def shards(*words: object) -> None:
    assert main(["shards", *map(str, words)]) == 0


def written(path: Path) -> dict[str, np.ndarray]:
    """All rows of a folder, in their order; its index keeps to the schema."""
    jsonschema.validate(json.loads((path / "index.json").read_text()), SCHEMA)
    parts = [load_file(path / entry.file) for entry in ShardIndex.read(path).shards]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def order(seed: int = 0, num: int = NUM) -> np.ndarray:
    return np.random.default_rng(seed).permutation(num)


def test_an_npz_file_is_written_in_a_drawn_order_and_read_by_a_run(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", data=pixels(3, 4, 5), labels=labels())
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    shards(file, "--out", tmp_path / "s", "--shard-examples", 25, "--class-names", tmp_path / "names.txt")
    found = written(tmp_path / "s")
    np.testing.assert_array_equal(found["data"], pixels(3, 4, 5)[order()])
    np.testing.assert_array_equal(found["labels"], labels()[order()])
    document = {"kind": "shards", "path": str(tmp_path / "s"), "held_out": 10}
    config = ShardsConfig.model_validate(ShardsConfig.resolved(document))
    assert config.class_names == ("ant", "bee", "cat", "dog")
    batch = data.build(config).get(torch.tensor([30]))
    np.testing.assert_allclose(batch.x_1[0], pixels(3, 4, 5)[order()[30]] / 127.5 - 1, atol=1e-6)


def test_the_same_bytes_from_any_container_layout_and_number_of_threads(tmp_path: Path) -> None:
    images = pixels(4, 5, 3)
    np.savez_compressed(tmp_path / "packed.npz", x=images, y=labels().astype(np.uint8))
    np.save(tmp_path / "x.npy", images.transpose(0, 3, 1, 2))
    np.save(tmp_path / "y.npy", labels())
    packed = "--channels-last", "--data-key", "x", "--labels-key", "y"
    shards(tmp_path / "packed.npz", "--out", tmp_path / "1", *packed, "--workers", 1)
    shards(tmp_path / "packed.npz", "--out", tmp_path / "3", *packed, "--workers", 3)
    shards(tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "--out", tmp_path / "y")
    one, plain = (written(tmp_path / name) for name in ("1", "y"))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    for name in one:
        np.testing.assert_array_equal(one[name], plain[name])
    assert (one["data"] == images.transpose(0, 3, 1, 2)[order()]).all()


def test_grey_images_of_doubles_and_their_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(100, 30, (NUM, 4, 4))
    shards(saved(tmp_path / "a.npz", data=values), "--out", tmp_path / "s", "--seed", 3)
    assert "has values as far as" in capsys.readouterr().err
    found = written(tmp_path / "s")
    np.testing.assert_array_equal(found["data"], values.astype(np.float32)[order(3)][:, None])
    shards(tmp_path / "a.npz", "--out", tmp_path / "t", "--standardise", "--shard-examples", 7)
    index = ShardIndex.read(tmp_path / "t")
    assert index.shift == pytest.approx([values.mean()])
    assert index.scale == pytest.approx([values.std()])
    assert index.num_classes == 0


def test_pictures_are_read_as_pillow_reads_them_and_bad_ones_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder(tmp_path / "p", 12)
    cmyk = Image.new("CMYK", (12, 9), (10, 200, 30, 0))
    cmyk.save(source / "cat" / "000.jpg", quality=95)
    Image.new("P", (12, 9), 3).save(source / "cat" / "001.gif")
    (source / "dog" / "003.png").write_text("no picture")
    shards(source, "--out", tmp_path / "s", "--size", 8)
    output = capsys.readouterr()
    assert f"{source / 'dog' / '003.png'}: is no picture" in output.err
    assert output.err.count("it is left out") == 1
    assert "25 examples, uint8 [3, 8, 8], in 1 shard; classes: 2 (cat, dog)" in output.out
    names = sorted(path for path in source.rglob("*") if path.is_file())
    wanted = {}
    for path in names:
        if path.name == "003.png" and path.parent.name == "dog":
            continue
        image = Image.open(path).convert("RGB")
        side, left = 9, 1
        square = image.resize((8, 8), Image.Resampling.BICUBIC, box=(left, 0, left + side, side))
        wanted[np.asarray(square).transpose(2, 0, 1).tobytes()] = int(path.parent.name == "dog")
    found = written(tmp_path / "s")
    assert {row.tobytes(): int(label) for row, label in zip(found["data"], found["labels"], strict=True)} == wanted
    assert ShardIndex.read(tmp_path / "s").class_names == ("cat", "dog")
    shards(source, "--out", tmp_path / "flat", "--size", "6,10", "--channels", 1, "--no-labels")
    assert written(tmp_path / "flat")["data"].shape == (25, 1, 6, 10)


def test_a_start_that_was_told_to_stop_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", 20)
    whole, parts = (
        ShardsRequest(source, tmp_path / name, Reading(size=(8, 8)), shard_examples=7, standardise=True)
        for name in ("whole", "parts")
    )
    assert run(whole, lambda: False)
    for stop in (2, 1):
        asked = iter([False] * stop + [True])
        assert not run(parts, lambda asked=asked: next(asked))
    (unfinished := tmp_path / "parts" / ".shard_00003.safetensors.7.partial").write_bytes(b"half")
    assert len(list((tmp_path / "parts").glob("shard_*"))) == 3
    assert run(parts, lambda: False)
    assert not unfinished.exists()
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run(parts, lambda: True), "there is nothing left to do"


@pytest.mark.slow
def test_a_start_that_was_killed_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", 150)
    words = ["shards", str(source), "--size", "8", "--shard-examples", "20", "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    script = (
        "import sys, time, trainer.data.conversion.pictures as pictures\n"
        "read = pictures.read_picture\n"
        "def slow(*given):\n    time.sleep(0.005)\n    return read(*given)\n"
        "pictures.read_picture = slow\n"
        "from trainer.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "killed"
    for kill in (signal.SIGKILL, signal.SIGTERM):
        before = len(list(out.glob("shard_*"))) if out.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", script, *words, "--out", str(out)], cwd=ROOT)
        while len(list(out.glob("shard_*")) if out.exists() else []) < before + 2:
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(kill)
        assert process.wait() == (-signal.SIGKILL if kill == signal.SIGKILL else 75)
    assert not (out / "index.json").exists()
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("shard_*")}
    assert main([*words, "--out", str(out)]) == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert all((out / name).stat().st_mtime_ns == then for name, then in times.items()), "what was done was kept"
    assert main([*words, "--out", str(out)]) == 0


def test_a_golden_folder_is_written_again_to_the_byte(tmp_path: Path) -> None:
    """The sample of the format; reading it needs nothing but the index and safetensors."""
    shards(GOLDEN / "source.npz", "--out", tmp_path / "s", "--class-names", GOLDEN / "names.txt", "--shard-examples", 4)
    again = contents(tmp_path / "s")
    assert again == {name: held for name, held in contents(GOLDEN).items() if name in again}
    assert ShardIndex.read(GOLDEN).digest == ShardIndex.read(tmp_path / "s").digest


def test_the_schema_is_the_readers_own() -> None:
    """After a change, `make schemas` writes it again."""
    assert index_schema() == SCHEMA


ARRAYS: dict[str, dict[str, Any]] = {
    "data called x": {"x": pixels(2)},
    "labels called y": {"data": pixels(2), "y": labels()},
    "NaN": {"data": np.where(np.arange(NUM)[:, None] == 17, np.nan, np.ones((NUM, 2)))},
    "a number": {"data": np.float32(3)},
    "no example": {"data": np.zeros((0, 3))},
    "one axis": {"data": np.zeros(5)},
    "integers": {"data": np.zeros((5, 3), int)},
    "channels last": {"data": pixels(8, 8, 3)},
    "labels of floats": {"data": pixels(2), "labels": labels() * 1.0},
    "negative labels": {"data": pixels(2), "labels": np.arange(NUM) - 1},
    "fewer labels": {"data": pixels(2), "labels": labels()[:50]},
    "huge label": {"data": pixels(2), "labels": np.arange(NUM) + 10**6},
    "objects": {"data": np.array([{}], dtype=object)},
    "pixels": {"data": pixels(2)},
    "nothing": {},
}
FLAWS = """
data called x | data: is missing (there are x); name the array with --data-key
labels called y | labels: is missing (there are data, y); name it with --labels-key, or give --no-labels
NaN | data: example 17 contains values that are not finite; mend or leave out such examples (numpy.isfinite)
a number | data: has shape [], which contains no examples; give some
no example | data: has shape [0, 3], which contains no examples; give some
one axis | data: has shape [5], which is not a shape of examples; save [N, D] vectors, [N, H, W] grey images or
| [N, C, H, W] images
integers | data: is int64, which is not read; save float32 (or float16, float64), or uint8 for pixels from 0 to 255
channels last | data: has shape [60, 8, 8, 3], whose last axis looks like channels; add --channels-last, or save
| [N, C, H, W]
labels of floats | labels: is float64, and classes are integers; save integers of 0 or more (labels.astype(int)), or
| leave them out with --no-labels
negative labels | labels: 1 of 60 labels are negative, the first at 0 (-1); number classes from 0 and leave out examples
| without one
fewer labels | labels: has shape [50] for 60 examples; give one integer for each example
huge label | labels: has a label 1000059 among 60 examples; number the classes 0, 1, 2, ... without gaps
objects | data: cannot be read (s.npz holds Python objects, which may run code); save numbers alone
pixels --size 8 | --size: has no effect on SOURCE, which is an npz file; leave it out
pixels --workers 0 | --workers: 0 is below 1; use 1 or more
pixels --size big | argument --size: 'big' is not a size in pixels; use 64, or 48,64 (height, width); see python -m
| trainer shards --help
nothing | source: is not there; give an npz or npy file, a folder of pictures, or a folder that save_to_disk of Hugging
| Face's datasets wrote
"""
"""Arrays of a file, options behind them, and the line."""


def test_a_mistake_is_named_in_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (flaw, *line) in enumerate(rows(FLAWS)):
        name, *words = flaw.split(" --")
        (folder := tmp_path / str(number)).mkdir()
        source = folder / "s.npz"
        if ARRAYS[name]:
            saved(source, **ARRAYS[name])
        before = contents(folder)
        options = [part for word in words for part in f"--{word}".split()]
        found = refused(capsys, "shards", source, "--out", folder / "out" / "deep", *options)
        assert found.removeprefix(f"{source}: ") == " ".join(line).replace("SOURCE", str(source)), flaw
        assert contents(folder) == before


def test_folders_that_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(source: object, *words: object) -> str:
        return refused(capsys, "shards", source, "--out", tmp_path / "out", *words)

    source = folder(tmp_path / "p", 4)
    assert "--size: is missing" in (line := said(source))
    assert "has 12 x 9 pixels, so for example --size 9" in line
    (tmp_path / "empty").mkdir()
    assert said(tmp_path / "empty", "--size", 8).startswith(
        f"{tmp_path / 'empty'}: pictures: contains no pictures; give"
    )
    assert "--out: " in refused(capsys, "shards", source, "--out", source / "s", "--size", 8)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for number in range(3):
        Image.fromarray(deep).save(source / "cat" / f"deep{number}.png")
    code = main(["shards", str(source), "--out", str(tmp_path / "out"), "--size", "8"])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert (
        "has pixels of more than 8 bits (I;16), which have no fixed value for white; save it with 8 bits a colour"
        in lines[0]
    )
    assert lines[-1].endswith("of 11 cannot be read, the lines above say why; mend or remove them")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    file = saved(tmp_path / "a.npz", data=pixels(2))
    assert said(file).endswith("results of this verb (notes.txt); give a new folder, or --overwrite")
    (tmp_path / "out" / "notes.txt").unlink()
    shards(file, "--out", tmp_path / "out")
    line = said(file, "--seed", 1)
    assert line.endswith("output: belongs to other examples, options or seed; give another folder, or delete this one")
    line = refused(capsys, "shards", tmp_path / "out", "--out", tmp_path / "again")
    remedy = f"train on it as it is (data={{kind: shards, path: {tmp_path / 'out'}}})"
    assert line.endswith(f"source: is a folder of shards already; {remedy}")


@pytest.mark.slow
def test_a_hugging_face_folder_gives_what_its_library_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The library takes seconds to import."""
    import datasets

    images = [Image.fromarray(values) for values in pixels(9, 12, 3)]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat", "dog", "elk"])}
    )
    rows = datasets.Dataset.from_dict({"img": images, "label": labels()}, features=features)
    rows.save_to_disk(str(tmp_path / "h"))
    shards(tmp_path / "h", "--out", tmp_path / "s", "--size", 9)
    found = written(tmp_path / "s")
    np.testing.assert_array_equal(found["data"], pixels(9, 12, 3)[order()][:, :, 1:10].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["labels"], labels()[order()])
    index = ShardIndex.read(tmp_path / "s")
    assert (index.num_classes, index.class_names) == (5, ("ant", "bee", "cat", "dog", "elk"))
    turned = rows.select(range(NUM - 1, -1, -1))
    datasets.DatasetDict({"train": turned, "test": rows}).save_to_disk(str(tmp_path / "d"))
    assert refused(capsys, "shards", tmp_path / "d", "--out", tmp_path / "t", "--size", 9) == (
        "--split: is missing; use one of train, test"
    )
    shards(tmp_path / "d", "--out", tmp_path / "t", "--size", 9, "--split", "train")
    np.testing.assert_array_equal(written(tmp_path / "t")["labels"], labels()[::-1][order()])
    words = datasets.Dataset.from_dict({"img": images, "label": ["a"] * NUM}).cast_column("img", datasets.Image())
    words.save_to_disk(str(tmp_path / "w"))
    line = refused(capsys, "shards", tmp_path / "w", "--out", tmp_path / "u", "--size", 9)
    assert "make them classes (dataset.class_encode_column('label')), or give --no-labels" in line
    assert refused(capsys, "shards", tmp_path / "h", "--out", tmp_path / "u", "--image-column", "label").startswith(
        "--image-column: label holds ClassLabel("
    )
    assert not (tmp_path / "u").exists()


def test_pictures_of_several_shapes_go_to_shards_of_one_each_and_into_a_run(tmp_path: Path) -> None:
    source = folder(tmp_path / "p", 6)
    wide = {number: picture(source / "dog" / f"wide{number}.png", number, (24, 10)) for number in range(5)}
    words = "--buckets", "9,9", "6,12", "--shard-examples", 4
    shards(source, "--out", tmp_path / "s", *words)
    jsonschema.validate(json.loads((tmp_path / "s" / "index.json").read_text()), SCHEMA)
    index = ShardIndex.read(tmp_path / "s")
    assert index.shape == (3, 9, 9)
    assert [(shard.shape, shard.num_examples) for shard in index.shards] == [
        *[(None, 4)] * 3,
        ((3, 6, 12), 4),
        ((3, 6, 12), 1),
    ]
    document = {"kind": "shards", "path": str(tmp_path / "s"), "held_out": 4}
    config = ShardsConfig.model_validate(ShardsConfig.resolved(document))
    assert config.shapes == ((3, 9, 9), (3, 6, 12))
    assert ShardsConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.of_shape((3, 6, 12)).shape == (3, 6, 12)
    dataset = data.build(config)
    groups = [torch.cat([dataset.groups(split)[number] for split in data.SPLITS]).sort().values for number in (0, 1)]
    assert [group.tolist() for group in groups] == [list(range(12)), list(range(12, 17))]
    assert torch.equal(torch.cat([dataset.data_points(split) for split in data.SPLITS]).sort().values, groups[0])
    batch = dataset.get(groups[1])
    cut = [
        np.asarray(Image.fromarray(pixels).resize((12, 6), Image.Resampling.BICUBIC, box=(2, 0, 22, 10)))
        for pixels in wide.values()
    ]
    wanted = {np.round(image.transpose(2, 0, 1)).tobytes() for image in cut}
    assert {((x + 1) * 127.5).round().byte().numpy().tobytes() for x in batch.x_1} == wanted
    shards(source, "--out", tmp_path / "n", "--buckets", 3, "--size", 16)
    assert [shape[1:] for shape in ShardIndex.read(tmp_path / "n").shapes] == [(16, 16), (10, 22)]
    assert {shard.shape for shard in ShardIndex.read(tmp_path / "n").shards} == {None, (3, 10, 22)}


@each(
    ("words", "line"),
    [
        (("--buckets", "3"), "--buckets: 3 is a number of shapes around --size; give both, 1 or more"),
        (("--buckets", "9", "8"), "--buckets: 9 8 are not shapes; use for example 32,32 24,40 (height, width)"),
        (("--buckets", "9,x"), "--buckets: '9,x' is not a size in pixels; use 64, or 48,64 (height, width)"),
        (
            ("--buckets", "8,8", "9,9"),
            "--buckets: [8, 8] and [9, 9] have the same proportions; give each proportion once",
        ),
    ],
)
def test_wrong_buckets(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], line: str) -> None:
    source = folder(tmp_path / "p", 1)
    assert refused(capsys, "shards", source, "--out", tmp_path / "s", *words) == line
