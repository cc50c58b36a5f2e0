"""The autoencoder, what it learns from, and a run on its latents that ends in images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from moe.seeds import derive_seed
from tests.forked import ROOT
from tests.trainer.commands import DIGITS, contents, refused, trained
from trainer import data, load_config
from trainer.__main__ import main
from trainer.config.model.mlp import AutoencoderConfig
from trainer.config.run import RunConfig
from trainer.data import Batch, ShardsConfig
from trainer.data.shard.index import ShardIndex
from trainer.evaluation.judgement import judge_features
from trainer.model.autoencoder import Autoencoder
from trainer.model.feature_extractor.extractor import write_extractor
from trainer.model.network import GivesFeatures, NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import build_space
from trainer.task import ReconstructionTask

SIZES = AutoencoderConfig(hidden=8, num_layers=2, latent_channels=3, factor=4)


def network(seed: int = 0) -> Autoencoder:
    return initialised(Autoencoder(NetworkSpec(config=SIZES, state_shape=(1, 8, 12))), seed)


def images(num: int = 5) -> torch.Tensor:
    return torch.randn(num, 1, 8, 12, generator=torch.Generator().manual_seed(1))


def test_shapes_and_what_noise_does() -> None:
    model = network()
    quiet = torch.zeros(5, 3, 2, 3)
    restored, mean, log_variance = model(images(), quiet)
    assert restored.shape == images().shape
    assert mean.shape == log_variance.shape == (5, *model.latent_shape) == (5, 3, 2, 3)
    assert torch.equal(restored, model.decode(mean)), "without noise the mean is decoded"
    noise = torch.randn(quiet.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(images(), noise)[0], model.decode(mean + noise * log_variance.exp().sqrt()))


def test_features_are_the_means_of_the_latents() -> None:
    model = network()
    assert isinstance(model, GivesFeatures)
    features = model.features(images())
    assert features.dtype == torch.float32
    assert torch.equal(features, model.encode(images())[0].reshape(5, -1))


def test_the_loss_is_the_error_and_the_divergence_of_gaussians() -> None:
    model = network()
    task = ReconstructionTask(configuration(**SIZES.model_dump() | {"kl_weight": 0.25}))
    batch = Batch(images(), None, torch.arange(5))
    (drawn,) = task.draw([batch], [torch.Generator().manual_seed(3)])
    terms = task.loss(model, drawn)
    noise = torch.randn(5, 3, 2, 3, generator=torch.Generator().manual_seed(3))
    restored, mean, log_variance = model(images(), noise)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    expected = ((restored - images()) ** 2).mean((1, 2, 3)) + 0.25 * divergence.mean((1, 2, 3))
    torch.testing.assert_close(terms.per_example, expected)


def configuration(**model: object) -> RunConfig:
    sections = {"run": {"dir": "x"}, "optim": {"steps": 1, "global_batch": 4}}
    return RunConfig.model_validate({**sections, "model": {"kind": "autoencoder", **model}})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"num_layers": 3}, "num_layers: 3 is odd"), ({"hidden": 12}, "use 16"), ({"factor": 3}, "factor")],
)
def test_sizes_that_do_not_divide(changes: dict[str, object], problem: str) -> None:
    assert configuration().flow is None
    with pytest.raises(ValueError, match=problem):
        configuration(**changes)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of an autoencoder and the latents that it made."""
    path = tmp_path_factory.mktemp("latents")
    config = str(ROOT / "configs" / "runs" / "digits_autoencoder.yaml")
    settings = ("model.hidden=8", "optim.steps=4", "checkpoint.every=4", "evaluate.every=4", "sample.every=4")
    run = trained(path / "run", config, *settings)
    assert main(["encode", str(run), "--out", str(path / "shards")]) == 0
    return run, path / "shards"


def test_latents_are_about_standard_and_keep_their_labels(latents: tuple[Path, Path]) -> None:
    _, shards = latents
    config = ShardsConfig.model_validate(
        ShardsConfig.resolved({"kind": "shards", "path": str(shards), "held_out": 100})
    )
    assert (config.shape, config.num_classes) == ((8, 8, 8), 10)
    batch = data.build(config).get(torch.arange(1797))
    moments, labels = batch.x_1, batch.labels
    index = ShardIndex.read(shards)
    assert index.latents is not None
    mean, variance = moments[:, :4].double(), moments[:, 4:].double().exp()
    shift, scale = (torch.tensor(v).reshape(4, 1, 1) for v in (index.latents.shift, index.latents.scale))
    standard = (mean - shift) / scale
    np.testing.assert_allclose(standard.mean((0, 2, 3)).numpy(), 0, atol=1e-5)
    spread = (standard.square() + variance / scale**2).mean((0, 2, 3))
    np.testing.assert_allclose(spread.numpy(), 1, atol=1e-5)
    assert labels is not None
    expected = data.build(data.DigitsConfig(size=16)).get(torch.arange(1797)).labels
    assert torch.equal(labels, torch.as_tensor(expected))


def test_a_transformer_learns_from_latents_and_its_drawings_are_decoded(
    latents: tuple[Path, Path], tmp_path: Path
) -> None:
    run, shards = latents
    assert (run / "samples" / "step_00000004.png").exists()
    section = f"data={{kind: shards, path: {shards}, held_out: 1500}}"
    small = ("moe=null", "parallel.expert=1", "trace.steps=[]", "model.hidden=16", "model.num_layers=1")
    short = (
        "optim.steps=1",
        "optim.warmup_steps=0",
        "optim.global_batch=8",
        "sample.every=null",
        "evaluate.every=null",
    )
    trained(tmp_path / "dit", DIGITS, *small, *short, section)
    features, quality = tmp_path / "features.safetensors", tmp_path / "quality.json"
    write_extractor(nn.Sequential(nn.AvgPool2d(16, 16)), features, (1, 16, 16))
    arguments = ("--num", "10", "--out", tmp_path / "grid.png", "--quality", quality, "--features", features)
    assert main(["sample", str(tmp_path / "dit"), *map(str, arguments)]) == 0
    width, height = Image.open(tmp_path / "grid.png").size
    assert width > 7 * height, "ten images in a row under their headings, decoded to one channel"
    config = load_config(tmp_path / "dit" / "config.yaml")
    dataset = data.build(config.data)
    moments = dataset.get(dataset.indices("train")).x_1
    shown = build_space(config).shown(moments, generator=torch.Generator().manual_seed(derive_seed(0, "shown")))
    real = shown.mean((1, 2, 3)).numpy()[:, None]
    name = "frechet_distance_on_features_floor"
    expected = judge_features(real[:10], real, seed=0)[name]
    assert json.loads(quality.read_text())[name] == pytest.approx(expected, rel=1e-4), "images are compared"


def test_what_encode_refuses(latents: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, shards = latents
    before = contents(shards)
    assert "already exists" in refused(capsys, "encode", run, "--out", shards)
    assert contents(shards) == before
    line = refused(capsys, "encode", run, "--data", DIGITS, "--out", tmp_path / "new")
    assert line.startswith("--data: examples of shape [1, 8, 8] are not the [1, 16, 16]")
    assert "there is no complete checkpoint" in refused(capsys, "encode", tmp_path, "--out", tmp_path / "new")
    assert "use the encode verb" in refused(capsys, "sample", run, "--out", tmp_path / "grid.png")
    assert ShardIndex.read(shards).num_examples == 1797
