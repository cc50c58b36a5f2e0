"""The fid verb: runs and folders of pictures, statistics that are reused, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from netsim.foundation.files import file_digest
from tests.each import each
from tests.forked import ROOT, command
from tests.trainer.commands import refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.evaluation.fidelity.precision_recall import precision_recall
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.evaluation.quality import frechet_distance
from trainer.model.feature_extractor.extractor import read_extractor, write_extractor
from trainer.sampling.trained import opened

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "fid.schema.json").read_text())
NUM, HELD_OUT = 40, 1700
DIGITS = {
    "data": {"kind": "digits", "held_out": HELD_OUT},
    "model": {"hidden": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4},
    "sample": {"sampler": {"kind": "euler", "steps": 2}, "guidance": 1.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, networks that make features, and pictures."""
    folder = tmp_path_factory.mktemp("fid")
    untrained_run(folder / "run", DIGITS)
    torch.manual_seed(0)
    for name, channels in (("grey", 1), ("coloured", 3)):
        layers = nn.Sequential(nn.Conv2d(channels, 6, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(54, 5))
        write_extractor(layers, folder / name, (channels, 8, 8), eight_bits=True)
    rng = np.random.default_rng(0)
    for name, count in (("drawn", 11), ("real", 13)):
        (folder / name / "inner").mkdir(parents=True)
        for number in range(count):
            size = (8, 8) if number % 3 else (12, 9)
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / ("inner" if number % 2 else ".") / f"{number:02}.png")
    return folder


def fid(folder: Path, out: Path, *options: object) -> dict[str, Any]:
    words = (folder / "run", "--features", folder / "grey", "--num", NUM, "--batch", 16, *options, "--out", out)
    assert main(["fid", *map(str, words)]) == 0
    found = json.loads(out.read_text())
    jsonschema.validate(found, SCHEMA)
    return found


def test_a_run_is_compared_with_all_its_training_examples(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fid(folder, tmp_path / "fid.json", "--seed", 3, "--steps", 3)
    assert "FID" in capsys.readouterr().out
    import trainer.data

    with opened(folder / "run") as flow:
        conditioning = flow.conditioning(NUM, seed=3)
        chosen = flow.sample.sampler.model_copy(update={"steps": 3})
        trajectory = flow.follow(conditioning.condition, torch.arange(NUM), chosen, guidance=1.0, seed=3)
        dataset = trainer.data.build(flow.config.data)
        real = dataset.get(dataset.indices("train")).x_1
    extractor = read_extractor(folder / "grey")
    features = [extractor.features(images) for images in (real, trajectory.final)]
    assert found["fid"] == pytest.approx(frechet_distance(*features), rel=1e-4)
    expected = precision_recall(*map(torch.from_numpy, features))
    assert (found["precision"], found["recall"]) == pytest.approx(tuple(expected), abs=1 / NUM)
    assert (found["num"], found["num_real"]) == (NUM, 1797 - HELD_OUT)
    assert found["sampler"]["steps"] == 3


def test_statistics_are_written_once_and_reused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "real.npz"
    first = fid(folder, tmp_path / "one.json", "--statistics", path)
    assert f"{path}: statistics of 97 real examples\n" in capsys.readouterr().out
    kept = path.read_bytes()
    monkeypatch.setattr("trainer.evaluation.fidelity.sets.TrainingExamples.read", None)  # no example is read again
    again = fid(folder, tmp_path / "two.json", "--statistics", path)
    assert "statistics of" not in capsys.readouterr().out
    assert path.read_bytes() == kept
    assert again == first
    line = refused(
        capsys,
        *("fid", folder / "run", "--features", folder / "grey", "--num-real", "50"),
        *("--statistics", path, "--num", "8"),
    )
    assert line == (
        f"{path}: num: is 97 where 50 real examples are meant; delete it to have it computed anew, or name another file"
    )


def test_published_statistics_give_no_precision(folder: Path, tmp_path: Path) -> None:
    fid(folder, tmp_path / "own.json", "--statistics", tmp_path / "own.npz")
    own = Statistics.read(tmp_path / "own.npz", num_features=5, extractor=file_digest(folder / "grey"))
    np.savez(tmp_path / "published.npz", mu=own.gaussian.mean, sigma=own.gaussian.covariance)
    found = fid(folder, tmp_path / "fid.json", "--statistics", tmp_path / "published.npz")
    assert found["fid"] == json.loads((tmp_path / "own.json").read_text())["fid"]
    assert found["num_real"] is None
    assert "precision" not in found


def test_pictures_of_any_size_are_compared(folder: Path, tmp_path: Path) -> None:
    words = [folder / "drawn", "--real", folder / "real", "--features", folder / "coloured"]
    assert main(["fid", *map(str, words), "--batch", "4", "--out", str(tmp_path / "fid.json")]) == 0
    found = json.loads((tmp_path / "fid.json").read_text())
    jsonschema.validate(found, SCHEMA)
    extractor = read_extractor(folder / "coloured")

    def features(name: str) -> np.ndarray:
        pictures = [np.asarray(Image.open(path)) for path in sorted((folder / name).rglob("*.png"))]
        values = [torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1)[None] for pixels in pictures]
        return np.concatenate([extractor.features(image) for image in values])

    assert found["fid"] == pytest.approx(frechet_distance(features("drawn"), features("real")), rel=1e-4)
    assert (found["num"], found["num_real"]) == (11, 13)


@each(
    ("words", "complaint"),
    [
        (("run", "--num", "1"), "--num: 1 is below 2; use 2 or more"),
        (("run", "--compared", "2"), "--compared: 2 is below 4; use 4 or more"),
        (("run", "--batch", "0"), "--batch: 0 is below 1; use 1 or more"),
        (("run", "--class", "11"), "--class: there is no class 11"),
        (("run", "--real", "none"), "PATH/none: folder: does not exist; give a folder of pictures"),
        (("drawn",), "--real: what are the pictures in PATH/drawn compared with? Give a folder of real pictures"),
        (("drawn/inner/none", "--real", "real"), "PATH/drawn/inner/none: folder: does not exist; give a folder"),
        (("drawn", "--real", "run"), "PATH/run: pictures: holds 0 pictures; give two or more files that end in"),
        (("run", "--statistics", "grey"), "PATH/grey: statistics: cannot be read"),
        (("run", "--features", "run/checkpoints"), "PATH/run/checkpoints: features: cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    words: tuple[str, ...], complaint: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [folder / word if not word.startswith("-") and not word.isdecimal() else word for word in words]
    extractor = () if "--features" in words else ("--features", folder / ("grey" if words[0] == "run" else "coloured"))
    said = refused(capsys, "fid", *places, *extractor, "--out", tmp_path / "fid.json")
    assert said.replace(str(folder), "PATH").startswith(complaint)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_find_what_one_process_finds(ranks: int, folder: Path, tmp_path: Path) -> None:
    """To the last bit where blocks are drawn whole on either; on three ranks up to rounding."""
    alone = fid(folder, tmp_path / "one.json", "--statistics", tmp_path / "one.npz")
    words = (folder / "run", "--features", folder / "grey", "--num", NUM, "--batch", 16)
    files = ("--out", tmp_path / "several.json", "--statistics", tmp_path / "several.npz")
    result = command("fid", *map(str, words + files), ranks=ranks)
    assert result.returncode == 0, result.stderr
    several = json.loads((tmp_path / "several.json").read_text())
    if ranks == 2:
        assert several == alone
        assert (tmp_path / "several.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()
    assert several.pop("fid") == pytest.approx(alone.pop("fid"), rel=1e-9)
    assert several == alone
    pictures = ("--real", str(folder / "real"), "--features", str(folder / "coloured"), "--batch", "2")
    for name, number in (("alone", None), ("together", ranks)):
        out = ("--out", str(tmp_path / name))
        result = command("fid", str(folder / "drawn"), *pictures, *out, ranks=number)
        assert result.returncode == 0, result.stderr
    found = [json.loads((tmp_path / name).read_text()) for name in ("alone", "together")]
    assert found[0].pop("fid") == pytest.approx(found[1].pop("fid"), rel=1e-9)
    assert found[0] == found[1]
