"""Images in IDX files, against files that are written here byte by byte."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netsim.foundation.refusal import Refusal
from trainer.data.idx import IdxConfig

FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx(values: np.ndarray, type_code: int = 8) -> bytes:
    """The format as its author describes it: two zeros, type, dimensions, their sizes, the values."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, type_code, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write(path: Path, values: np.ndarray) -> None:
    path.write_bytes(gzip.compress(idx(values)) if path.suffix == ".gz" else idx(values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, number, end in (("train", 40, ".gz"), ("t10k", 12, "")):
        write(tmp_path / f"{name}-images-idx3-ubyte{end}", random.integers(0, 256, (number, 5, 4)))
        write(tmp_path / f"{name}-labels-idx1-ubyte{end}", np.arange(number) % 3)
    return tmp_path


def settings(folder: Path, **changes: Any) -> IdxConfig:
    return IdxConfig.model_validate(IdxConfig.resolved({"kind": "idx", "path": str(folder), "held_out": 10, **changes}))


def test_images_are_those_of_the_files(folder: Path) -> None:
    config = settings(folder, pad=1)
    assert (config.shape, config.num_classes) == ((1, 7, 6), 3)
    data = config.open()
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        written = np.frombuffer(file.read()[16:], np.uint8).reshape(40, 5, 4)
    batch = data.get(torch.arange(40))
    inside = batch.x_1[:, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.from_numpy(written / 127.5 - 1).float())
    assert (batch.x_1.sum() - inside.sum()).item() == pytest.approx(-40 * (7 * 6 - 5 * 4), rel=1e-5)
    assert batch.labels is not None
    assert batch.labels.tolist() == [number % 3 for number in range(40)]
    held_out = data.get(data.indices("held_out"))
    assert held_out.labels is not None
    assert held_out.labels.tolist() == [number % 3 for number in range(10)]


def test_more_examples_contain_fewer(folder: Path) -> None:
    few, more, every = (set(settings(folder, num_examples=n).open().indices("train").tolist()) for n in (5, 20, None))
    assert few < more < every == set(range(40))
    assert (len(few), len(more)) == (5, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 13}, r"held_out: 13 is more than the 12 images of t10k"),
        ({"num_examples": 41}, r"num_examples: 41 is more than the 40 images of train"),
        ({"class_names": ["a"]}, r"class_names: 1 names do not fit 3 classes"),
        ({"train": "absent"}, r"absent-images-idx3-ubyte.gz: file: does not exist; correct data.path"),
    ],
)
def test_wrong_settings_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(folder, **changes)


IMAGES, LABELS, COMPRESSED = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (LABELS, idx(np.zeros(12))[:-1], "holds 11 bytes, not the 12 bytes of its header; fetch the file again"),
        (COMPRESSED, gzip.compress(idx(np.arange(40)), mtime=0)[:20], "cannot be read"),
        (LABELS, idx(np.zeros(11)), "holds 11 labels for 12 images"),
        (IMAGES, idx(np.zeros((12, 5, 4)), 13), r"is no IDX file of unsigned bytes in 3 .* \(it begins 00 00 0d 03\)"),
        (IMAGES, idx(np.zeros((12, 5, 5))), r"holds images of \(5, 5\), those of train have \(5, 4\)"),
        (IMAGES, b"", r"\(it is empty\)"),
    ],
)
def test_damaged_files_are_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(Refusal, match=message):
        settings(folder)


def test_files_that_change_after_a_run_began_are_refused(folder: Path) -> None:
    config = settings(folder)
    write(folder / "t10k-labels-idx1-ubyte", np.full(12, 7))
    with pytest.raises(Refusal, match="with 12 labels to 7, where the run has 3 classes"):
        config.open()


@pytest.mark.skipif(not FASHION.exists(), reason="apt install dataset-fashion-mnist")
def test_fashion_mnist_is_read() -> None:
    config = settings(FASHION, pad=2)
    data = config.open()
    assert (config.shape, config.num_classes, data.count("train")) == ((1, 32, 32), 10, 60_000)
    batch = data.get(torch.arange(60_000))
    assert batch.labels is not None
    assert batch.labels.bincount().tolist() == [6_000] * 10
    values = (batch.x_1[:, :, 2:-2, 2:-2] + 1) / 2
    assert values.mean().item() == pytest.approx(0.286, abs=5e-4)
    assert values.std().item() == pytest.approx(0.353, abs=5e-4)
