"""One process without a launcher: train, sample, report, and a new run from the old one's weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from moe.placement.placement import Placement
from tests.forked import LAUNCHED
from tests.trainer.commands import DIGITS, contents, refused, trained
from trainer import load_config
from trainer.__main__ import main
from trainer.checkpoint.directory import complete_steps
from trainer.config.rules.plan import plan_layout
from trainer.model.build import build_model, parameter_shapes
from trainer.model.feature_extractor.extractor import write_extractor
from trainer.model.values import initialise_from
from trainer.observe.metrics import read_metrics

TINY = (
    "model.hidden=16",
    "model.num_layers=1",
    "parallel.expert=1",
    "optim.steps=4",
    "optim.global_batch=16",
    "optim.warmup_steps=0",
    "observe.log_every=1",
    "observe.port=0",
    "evaluate.every=2",
    "checkpoint.every=3",
    "data.held_out=60",
    "sample.sampler.steps=2",
)
DENSE = (*TINY, "moe=null", "sample.every=null", "trace.steps=[]")
EXPERTS = (
    *TINY,
    "moe.num_experts=4",
    "moe.expert_hidden=16",
    "sample.every=4",
    "sample.per_class=2",
    "trace.steps=[3]",
)


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("dense") / "run", DIGITS, *DENSE)


@pytest.fixture(scope="module")
def expert_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("experts") / "run", DIGITS, *EXPERTS)


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step_00000004"


def test_a_run_leaves_what_it_promises(dense_run: Path, expert_run: Path) -> None:
    for run in (dense_run, expert_run):
        assert complete_steps(run / "checkpoints") == [3, 4]
        assert load_config(run / "config.yaml").run.dir == run
        records = read_metrics(run / "metrics.jsonl")
        assert [record.step for record in records] == [1, 2, 3, 4]
        assert [record.step for record in records if "held_out_loss" in record.values] == [2, 4]
        assert [path for path in contents(run) if path.endswith(".partial")] == []
    assert {path.name for path in newest(expert_run).iterdir()} == {
        "state",
        "ranks",
        "shared.pt",
        "ema.safetensors",
        "routers.safetensors",
        "config.yaml",
        "placement.json",
        "README.md",
        "COMPLETE",
    }
    assert Placement.read(newest(expert_run) / "placement.json").num_ranks == 1
    assert Image.open(expert_run / "samples" / "step_00000004.png").format == "PNG"
    assert (expert_run / "traces" / "routing.npz").exists()
    assert (expert_run / "traces" / "collectives.jsonl").exists()


def test_the_saved_average_has_the_names_and_shapes_of_the_network(dense_run: Path, expert_run: Path) -> None:
    for run in (dense_run, expert_run):
        averages = load_file(newest(run) / "ema.safetensors")
        shapes = {name: tuple(tensor.shape) for name, tensor in averages.items()}
        assert shapes == parameter_shapes(load_config(run / "config.yaml"))


def test_sample_and_report(expert_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    grid, quality, page = tmp_path / "new" / "grid.png", tmp_path / "quality.json", tmp_path / "page.html"
    assert main(["sample", str(expert_run), "--num", "20", "--out", str(grid), "--quality", str(quality)]) == 0
    width, height = Image.open(grid).size
    assert width > 4 * height, "ten classes stand side by side, two images each"
    figures = json.loads(quality.read_text())
    assert figures["num"] == 20
    assert 0 <= figures["class_accuracy"] <= 1
    assert figures["frechet_distance_unguided"] > 0
    assert main(["report", str(expert_run), "--quality", str(quality), "--out", str(page)]) == 0
    assert "<html" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"new", "quality.json", "page.html"}


def test_samples_are_judged_by_the_features_of_a_file(
    dense_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    features, grid, quality, page = (tmp_path / name for name in ("f.safetensors", "a.png", "q.json", "p.html"))
    write_extractor(nn.Sequential(nn.Flatten()), features, (1, 8, 8))
    sample = ["sample", str(dense_run), "--num", "20", "--out", str(grid)]
    judged = ["--quality", str(quality), "--features", str(features)]
    assert "--quality too" in refused(capsys, *sample, "--features", features)
    write_extractor(nn.Sequential(nn.Flatten()), tmp_path / "points", (64,))
    assert f"{tmp_path / 'points'}: shape: " in refused(
        capsys, *sample, "--quality", quality, "--features", tmp_path / "points"
    )
    assert not grid.exists()
    assert main([*sample, *judged]) == 0
    assert "Fréchet distance on features without guidance" in capsys.readouterr().out
    figures = json.loads(quality.read_text())
    assert figures["features_sha256"] == hashlib.sha256(features.read_bytes()).hexdigest()
    for end in ("unguided", "floor"):
        on_pixels, on_features = (figures[f"frechet_distance{kind}_{end}"] for kind in ("", "_on_features"))
        assert on_features == pytest.approx(on_pixels, rel=1e-6), "the features are the pixels"
    assert main(["report", str(dense_run), "--quality", str(quality), "--out", str(page)]) == 0
    assert page.read_text().count("Fréchet distance on features") == 1
    assert "Fréchet distance on features, no guidance" in capsys.readouterr().out


def test_an_evaluation_judges_what_sample_draws(
    dense_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 200)
    out, quality = tmp_path / "evaluation.json", tmp_path / "quality.json"
    told = ["evaluate", str(dense_run), "--num", "40", "--seed", "3", "--out", str(out)]
    assert "--evaluations: '1,none'" in refused(capsys, *told, "--evaluations", "1,none")
    assert "--num: 1 is below 2" in refused(capsys, *told, "--num", "1")
    assert not out.exists()
    assert main([*told, "--evaluations", "2", "--likelihood", "1"]) == 0
    assert "bits a dimension of held-out examples" in capsys.readouterr().out
    found = json.loads(out.read_text())
    (euler,) = found["results"]
    grid = ["--num", "40", "--seed", "3", "--out", str(tmp_path / "grid.png"), "--quality", str(quality)]
    assert main(["sample", str(dense_run), *grid]) == 0
    drawn = json.loads(quality.read_text())
    assert euler["evaluations"] == 2, "those of the run's own sampler"
    assert euler["figures"]["class_accuracy"] == drawn["class_accuracy"]
    for name in ("frechet_distance", "energy_distance", "mmd", "sliced_wasserstein"):
        assert euler["figures"][name] == pytest.approx(drawn[f"{name}_unguided"], rel=1e-9)
        assert found["floor"][name] == pytest.approx(drawn[f"{name}_floor"], rel=1e-9)


def test_weights_are_taken_over_exactly(dense_run: Path) -> None:
    config = load_config(dense_run / "config.yaml")
    model = build_model(config, plan_layout(config, 1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    initialise_from(model, newest(dense_run) / "ema.safetensors")
    given = load_file(newest(dense_run) / "ema.safetensors")
    assert all(torch.equal(parameter, given[name]) for name, parameter in model.named_parameters())
    assert np.mean([torch.equal(before[name], given[name]) for name in given]) < 0.5


def test_an_exported_network_starts_another_run(expert_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(expert_run), "--out", str(out)]) == 0
    assert contents(out).keys() == {"model.safetensors", "routers.safetensors", "config.yaml", "README.md"}
    for target, source in (("model.safetensors", "ema.safetensors"), ("routers.safetensors", "routers.safetensors")):
        assert (out / target).read_bytes() == (newest(expert_run) / source).read_bytes()
    card, elements = (out / "README.md").read_text(), load_file(out / "model.safetensors").values()
    assert f"{sum(tensor.numel() for tensor in elements):,} parameters" in card
    assert str(expert_run) not in card
    still = ("optim.steps=1", "optim.final_lr=0", "optim.ema_decay=0", "checkpoint.every=1")
    weights = out / "model.safetensors"
    run = trained(tmp_path / "run", DIGITS, *EXPERTS, *still, f"model.init_from={weights}", "trace.steps=[]")
    fresh, warm = (read_metrics(folder / "metrics.jsonl")[0].values["loss"] for folder in (expert_run, run))
    assert abs(fresh - warm) > 1e-4
    given, kept = (load_file(path) for path in (weights, run / "checkpoints" / "step_00000001" / "ema.safetensors"))
    assert given.keys() == kept.keys()
    for name, value in given.items():
        assert torch.equal(kept[name], value), name
