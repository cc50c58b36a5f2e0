"""A folder of pictures, one sub-folder a class."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from netsim.foundation.picture_file import BadPicture, opened_picture, read_picture
from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.trainer.commands import refused
from tests.trainer.data.pictures import folder, picture
from trainer import data
from trainer.data import BadExamples, ImageFolderConfig
from trainer.data.image_folder import ImageFolder


def config(path: Path, **changes: Any) -> ImageFolderConfig:
    document = {"kind": "image_folder", "path": str(path), "size": 8, "held_out": 4, **changes}
    return ImageFolderConfig.model_validate(ImageFolderConfig.resolved(document))


def names(images: ImageFolder, split: data.Split) -> set[str]:
    return {images._names[number] for number in images.indices(split).tolist()}


def test_classes_are_the_sub_folders_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder(tmp_path, classes=("dog", "ant", "cat"))
    (tmp_path / "ant" / "notes.txt").write_text("no picture")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    found = config(tmp_path)
    assert found.classes == ("ant", "cat", "dog")
    assert (found.num_classes, found.shape) == (3, (3, 8, 8))
    images = ImageFolder(found)
    ids = torch.cat([images.indices("train"), images.indices("held_out")])
    assert sorted(ids.tolist()) == list(range(30))
    labels = images.get(torch.arange(30)).labels
    assert labels is not None
    assert labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert config(tmp_path, classes=["dog", "cat"]).num_classes == 2


def test_pictures_without_classes(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / f"{number}.png", number)
    images = data.build(config(tmp_path))
    batch = images.get(images.indices("train"))
    x, labels = batch.x_1, batch.labels
    assert labels is None
    assert images.num_classes == 0
    assert x.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_of_the_right_size_is_read_as_it_is(tmp_path: Path, channels: int, mode: str) -> None:
    pixels = picture(tmp_path / "0.png", 0, (8, 8), mode)
    picture(tmp_path / "1.png", 1, (8, 8), mode)
    images = data.build(config(tmp_path, channels=channels, held_out=1))
    x = images.get(torch.tensor([0])).x_1
    expected = pixels.reshape(8, 8, channels).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(x[0].numpy(), expected, rtol=0, atol=1e-6)


def test_the_middle_square_is_what_is_seen(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "wide.png", 0, (20, 8))
    np.testing.assert_array_equal(read_picture(tmp_path / "wide.png", 3, 8, 8), pixels[:, 6:14].transpose(2, 0, 1))
    pixels = picture(tmp_path / "tall.png", 1, (8, 14))
    np.testing.assert_array_equal(read_picture(tmp_path / "tall.png", 3, 8, 8), pixels[3:11].transpose(2, 0, 1))


def test_shrinking_keeps_the_mean_and_a_flat_picture_flat(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (10, 200, 90)).save(tmp_path / "flat.png")
    flat = read_picture(tmp_path / "flat.png", 3, 8, 8)
    assert (flat == np.array([10, 200, 90]).reshape(3, 1, 1)).all()
    pixels = picture(tmp_path / "noise.png", 3, (64, 64))
    small = read_picture(tmp_path / "noise.png", 3, 4, 4)
    np.testing.assert_allclose(small.mean((1, 2)), pixels.mean((0, 1)), atol=3)
    assert small.std() < pixels.std() / 4, "it is filtered, not sampled"


def test_turned_transparent_and_paletted_pictures(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "plain.png", 0, (8, 8))
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 3
    image.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "turned.png", 3, 8, 8), pixels.transpose(2, 0, 1))
    glass = np.dstack([pixels, np.zeros((8, 8), np.uint8)])
    Image.fromarray(glass).save(tmp_path / "glass.png")
    assert (read_picture(tmp_path / "glass.png", 3, 8, 8) == 255).all()
    Image.new("P", (8, 8), 3).save(tmp_path / "palette.gif")
    assert read_picture(tmp_path / "palette.gif", 3, 8, 8).shape == (3, 8, 8)


def test_the_split_depends_on_names_alone_and_larger_ones_contain_smaller(tmp_path: Path) -> None:
    first = ImageFolder(config(folder(tmp_path / "one")))
    again = ImageFolder(config(folder(tmp_path / "other")))
    assert torch.equal(first.indices("train"), again.indices("train"))
    assert names(first, "held_out") < names(ImageFolder(config(tmp_path / "one", held_out=9)), "held_out")
    picture(tmp_path / "other" / "dog" / "later.png", 5)
    grown = ImageFolder(config(tmp_path / "other"))
    moved = names(grown, "held_out") & names(again, "train")
    assert moved <= {"dog/later.png"}, "a picture more moves no other into the held-out part"


def test_bad_pictures_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cat" / "000.png").write_text("no picture")
    cut = tmp_path / "cat" / "001.png"
    cut.write_bytes(cut.read_bytes()[:100])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "cat" / "002.png")
    (tmp_path / "cat" / "003.png").write_bytes(b"")
    images = data.build(config(tmp_path))
    (tmp_path / "cat" / "004.png").unlink()
    with pytest.raises(BadExamples) as caught:
        images.get(torch.arange(20))
    assert caught.value.reasons.keys() == set(range(5))
    for number, reason in caught.value.reasons.items():
        assert reason.startswith(f"{tmp_path / 'cat' / f'{number:03d}.png'}: ")
    assert "more than 8 bits" in caught.value.reasons[2]


def test_a_verb_that_leaves_no_picture_out_names_a_bad_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "pictures")
    bad = tmp_path / "pictures" / "cat" / "000.png"
    bad.write_text("no picture")
    run = tmp_path / "run.yaml"
    run.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\n"
        f"data: {{kind: image_folder, path: {tmp_path / 'pictures'}, size: 8, held_out: 4}}\n"
        "model: {hidden: 16, num_heads: 2}\noptim: {steps: 1, global_batch: 4}\n"
    )
    assert f"{bad}: is no picture" in refused(capsys, "features", run, "--out", tmp_path / "features.safetensors")
    assert not (tmp_path / "features.safetensors").exists()


def test_a_run_goes_on_with_the_pictures_that_it_began_with(tmp_path: Path) -> None:
    folder(tmp_path)
    resolved = config(tmp_path)
    assert ImageFolderConfig.model_validate(resolved.model_dump(mode="json")) == resolved
    data.build(resolved)
    picture(tmp_path / "dog" / "new.png", 1)
    with pytest.raises(Refusal, match=r"data\.digest: its 21 pictures are not those of the run"):
        data.build(resolved)
    assert config(tmp_path).digest != resolved.digest
    resolved_elsewhere = {**resolved.model_dump(mode="json"), "path": str(tmp_path / "gone")}
    assert ImageFolderConfig.model_validate(resolved_elsewhere).shape == (3, 8, 8), "sampling needs no pictures"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_a_program_for_another_format_is_not_started(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow hands EPS to Ghostscript: whatever its name is, that is a bad picture before any process starts."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **_: started.append(words) or exec("raise OSError"))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    path = tmp_path / f"x.{ending}"
    path.write_bytes(EPS)
    with pytest.raises(BadPicture, match="is no picture of a format that is read"):
        read_picture(path, 3, 8, 8)
    assert not started


@each("fault", [SyntaxError, struct.error, KeyError, IndexError, ZeroDivisionError, MemoryError])
def test_whatever_a_decoder_raises_is_a_bad_picture(fault: type[Exception], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(BadPicture, match=r"^(broken|'broken')$"), opened_picture(tmp_path / "x.png"):
        raise fault("broken")


def test_a_picture_of_too_many_pixels_is_a_bad_one(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(BadPicture, match="3600000000 pixels"):
        read_picture(tmp_path / "x.png", 3, 8, 8)
