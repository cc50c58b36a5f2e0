"""evaluate --episodes: what it prints and writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import refused
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.config.file import resolve
from trainer.data import DigitsConfig, build, write_shards
from trainer.evaluation.episodes import Episodes
from trainer.evaluation.few_shot import METHODS, RIVAL, interval, play
from trainer.experiment.evaluate import play_run

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "few_shot.schema.json").read_text())
AUTOENCODER: dict[str, Any] = {
    "model": {"kind": "autoencoder", "hidden": 8, "num_layers": 2, "latent_channels": 3},
    "data": {"kind": "digits"},
}
FLOW: dict[str, Any] = {
    "model": {"kind": "dit", "patch_size": 4, "hidden": 8, "num_layers": 1, "num_heads": 1},
    "data": {"kind": "digits"},
}
FEW = ("--episodes", "4", "--queries", "6", "--out")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "autoencoder", AUTOENCODER)


def test_episodes_are_played_printed_and_shown(
    autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "figures.json", tmp_path / "page.html"
    assert main(["evaluate", str(autoencoder), *FEW, str(out), "--page", str(page)]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    jsonschema.validate(found, SCHEMA)
    assert found["format"] == "flowfabric.few_shot/1"
    assert found["examples"] == 360
    assert found["queries"] == [6] * 5
    assert len(found["results"]) == 2 * 2 * len(METHODS)
    assert {one["features"] for one in found["results"]} == {"features of the run", "examples themselves"}
    for one in found["results"]:
        assert f"{one['accuracy'][0]:.1%}" in said
        assert f"{one['accuracy'][0]:.1%}" in page.read_text()
    assert "<svg" in page.read_text()


def test_a_contrastive_run_is_measured_by_its_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"kind": "contrastive", "hidden": 8, "num_layers": 1, "features": 12, "projected": 16}
    run = untrained_run(tmp_path / "run", {"model": model, "task": {"positives": {"kind": "views"}}})
    out, page = tmp_path / "figures.json", tmp_path / "page.html"
    assert main(["evaluate", str(run), "--num", "4", "--out", str(out), "--page", str(page)]) == 0
    assert json.loads(out.read_text())["episodes"] == 4
    assert "data:image/png;base64," in page.read_text(), "held-out images above those that are nearest to them"
    said = refused(capsys, "evaluate", run, "--likelihood", "3", "--out", out)
    assert said.startswith(f"--likelihood: {run} ")


def test_gains_are_paired_by_episode(autoencoder: Path) -> None:
    episodes = Episodes(num=4, shots=(1,), queries=(6,), seed=2)
    found = play_run(autoencoder, episodes)
    data = build(DigitsConfig())
    batch = data.get(data.indices("held_out"))
    shares = play(batch.x_1.flatten(1), batch.labels, episodes)[1]
    (row,) = [one for one in found.rows() if one[0] == "examples themselves" and one[2] == "transport, 1 pass"]
    assert row[3] == interval(shares["transport, 1 pass"])
    assert row[4] == interval(shares["transport, 1 pass"] - shares[RIVAL])


def test_a_file_of_features_and_the_data_of_another_run_are_played(autoencoder: Path, tmp_path: Path) -> None:
    flow, features = untrained_run(tmp_path / "flow", FLOW), tmp_path / "features.safetensors"
    assert main(["features", str(flow / "checkpoints/step_00000010/config.yaml"), "--out", str(features)]) == 0
    few = Episodes(num=2, shots=(1,), queries=(3,))
    found = play_run(autoencoder, few, features, flow)
    assert list(found.shares) == ["features of features.safetensors", "examples themselves"]


@each(
    ("options", "problem"),
    [
        (("--ways", "12"), "--ways: 12, and held-out examples are of 10 classes; use 10 or less"),
        (("--queries", "40"), "--queries: 40 beside 5 labelled examples are 45 of a class, and class "),
        (("--shots", "one"), "--shots: 'one' are not numbers with commas between them; use for example 1,5"),
        (("--likelihood", "3"), "--likelihood: it is of samples, which --episodes does not draw"),
        (("--episodes", "0", "--ways", "3"), "--ways: it applies to episodes only; give --episodes too"),
    ],
)
def test_what_episodes_refuse(
    options: tuple[str, ...], problem: str, autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "evaluate", autoencoder, *FEW, tmp_path / "figures.json", *options)
    assert said.startswith(problem)


def test_networks_and_data_that_cannot_be_played(
    autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = untrained_run(tmp_path / "flow", FLOW)
    said = refused(capsys, "evaluate", flow, *FEW, tmp_path / "figures.json")
    assert said.startswith(f"run_dir: {flow} holds a dit model, which gives no features; name some by --features")
    write_shards(tmp_path / "plain", [(np.zeros((60, 1, 8, 8), np.float32), None)])
    data = {"kind": "shards", "path": str(tmp_path / "plain"), "held_out": 50}
    unlabelled = untrained_run(tmp_path / "unlabelled", resolve({**AUTOENCODER, "data": data}).document)
    said = refused(capsys, "evaluate", unlabelled, *FEW, tmp_path / "figures.json")
    assert said == "--episodes: the examples have no labels; give data with classes by --data-from"
    larger = untrained_run(tmp_path / "larger", {**AUTOENCODER, "data": {"kind": "digits", "size": 16}})
    said = refused(capsys, "evaluate", autoencoder, "--data-from", larger, *FEW, tmp_path / "figures.json")
    assert said.startswith(f"--data-from: {larger} has examples of shape [1, 16, 16], and {autoencoder} [1, 8, 8]")
    assert not (tmp_path / "figures.json").exists()


def test_episodes_on_random_features_are_guesses() -> None:
    labels = torch.arange(200) % 5
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    shares = play(features, labels, Episodes(num=40, shots=(5,)))[5]
    for values in shares.values():
        assert values.mean() == pytest.approx(0.2, abs=0.06)
