"""States that are latents: posterior draws, the identity as limit, and runs that encode images as they train."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.draws import generator
from tests.forked import ROOT
from tests.trainer.commands import refused, trained
from tests.trainer.untrained import untrained_run
from trainer.__main__ import main
from trainer.config.model.mlp import AutoencoderConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import DigitsConfig
from trainer.data import build as build_data
from trainer.model.autoencoder import Autoencoder
from trainer.model.build import build_model
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import Latents, StoredLatents
from trainer.task import FlowTask

SHIFT, SCALE = (0.5, -1.0, 2.0), (2.0, 0.5, 1.5)


def autoencoder() -> Autoencoder:
    config = AutoencoderConfig(hidden=8, num_layers=2, latent_channels=3, factor=4)
    return initialised(Autoencoder(NetworkSpec(config=config, state_shape=(1, 8, 12))), 0).eval()


def test_states_are_draws_from_the_posterior_in_standard_units() -> None:
    coder, images = autoencoder(), torch.randn(1, 1, 8, 12, generator=generator(1))
    draws = Latents(coder, SHIFT, SCALE).encode(images.expand(4000, -1, -1, -1), generator=generator(2))
    assert not draws.requires_grad
    mean, log_variance = (values.detach() for values in coder.encode(images))
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (SHIFT, SCALE))
    spread = (0.5 * log_variance[0]).exp() / scale
    away = (draws.mean(0) - (mean[0] - shift) / scale) / spread
    assert away.abs().max() < 5 / 4000**0.5
    np.testing.assert_allclose((draws.std(0) / spread).numpy(), 1, atol=0.06)


def test_decoding_undoes_the_units() -> None:
    coder, latents = autoencoder(), torch.randn(5, 3, 2, 3, generator=generator(1))
    shift, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (SHIFT, SCALE))
    decoded = Latents(coder, SHIFT, SCALE).decode((latents - shift) / scale)
    torch.testing.assert_close(decoded, coder.decode(latents).detach())


def test_stored_latents_are_those_that_are_made_anew() -> None:
    coder, images = autoencoder(), torch.randn(5, 1, 8, 12, generator=generator(1))
    moments = torch.cat([values.detach() for values in coder.encode(images)], dim=1)
    anew, stored = Latents(coder, SHIFT, SCALE), StoredLatents(coder, SHIFT, SCALE)
    assert torch.equal(stored.encode(moments, generator=generator()), anew.encode(images, generator=generator()))
    assert torch.equal(anew.shown(images, generator=generator()), images)
    expected = anew.decode(anew.encode(images, generator=generator()))
    assert torch.equal(stored.shown(moments, generator=generator()), expected)


class Same(nn.Module):
    """An autoencoder that does nothing, surely."""

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """The images."""
        return images, None

    def decode(self, latents: Tensor) -> Tensor:
        """The images."""
        return latents


@pytest.mark.parametrize("context", [None, {"kind": "inpainting"}, {"kind": "semantic_map"}])
def test_the_identity_trains_as_on_pixels(context: dict[str, Any] | None) -> None:
    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 16, "num_layers": 1},
            "optim": {"steps": 1, "global_batch": 4},
            "flow": {"context": context},
        }
    )

    def curve(task: FlowTask) -> list[float]:
        model, draws = build_model(config, plan_layout(config, 1)), generator(7)
        optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
        data = build_data(DigitsConfig())
        for step in range(6):
            ids = torch.arange(8) + 8 * step
            (drawn,) = task.draw([data.get(ids)], [draws])
            loss = task.loss(model, drawn).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    latent = FlowTask(config)
    latent.parts.space = Latents(Same(), (0.0,), (1.0,))
    pixels = curve(FlowTask(config))
    assert curve(latent) == pixels
    assert len(set(pixels)) == 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of digits by an autoencoder that has not learned."""
    path = tmp_path_factory.mktemp("latents")
    sizes = {"kind": "autoencoder", "hidden": 8, "num_layers": 2, "latent_channels": 4, "factor": 2}
    run = untrained_run(path / "run", {"data": {"kind": "digits", "size": 16}, "model": sizes})
    assert main(["encode", str(run), "--out", str(path / "latents")]) == 0
    return path / "latents"


SMALL = ("model.hidden=16", "model.num_layers=1", "optim.warmup_steps=0", "optim.global_batch=8", "data.held_out=12")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["latent_inpainting", "latent_semantic"])
def test_a_run_that_encodes_images_resumes_bit_for_bit_and_draws_what_is_asked(
    method: str, folder: Path, tmp_path: Path
) -> None:
    config = str(ROOT / "configs" / "methods" / f"{method}.yaml")
    settings = (*SMALL, f"flow.latent.path={folder}", "optim.steps=4", "checkpoint.every=2", "checkpoint.keep=2")
    settings = (*settings, "evaluate.every=4", "sample.per_class=1", "sample.every=4", "observe.log_every=1")
    run = trained(tmp_path / "run", config, *settings)
    last = run / "checkpoints" / "step_00000004"
    before, picture = (last / "ema.safetensors").read_bytes(), (run / "samples" / "step_00000004.png").read_bytes()
    metrics = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    for file in sorted(last.rglob("*")):
        file.unlink() if file.is_file() else None
    trained(run, config, *settings)
    assert (last / "ema.safetensors").read_bytes() == before
    assert (run / "samples" / "step_00000004.png").read_bytes() == picture
    again = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert again == metrics

    assert main(["sample", str(run), "--num", "20", "--out", str(tmp_path / "grid.png")]) == 0
    width, height = Image.open(tmp_path / "grid.png").size
    assert height == pytest.approx(width * 9 / 4, abs=2), "twelve, four a row: thrice what is known, drawn, given"
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    if method == "latent_inpainting":
        cell = (pixels.shape[0] - 1) // 9
        known, drawn = pixels[1 : cell - 1], pixels[cell + 1 : 2 * cell - 1]
        assert (known == drawn).mean() > 0.5, "known pixels are in their places"


def test_what_latents_do_not_go_with(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ROOT / "configs" / "methods" / "latent_inpainting.yaml"
    latent = f"flow.latent.path={folder}"
    run = f"run.dir={tmp_path / 'run'}"
    line = refused(capsys, "check", config, latent, run, "data.size=8")
    assert "holds latents of images of shape [1, 16, 16], and the data have [1, 8, 8]" in line
    line = refused(capsys, "check", config, latent, run, f"data={{kind: shards, path: {folder}, held_out: 9}}")
    assert "is made of images, and the data are latents" in line
    line = refused(capsys, "check", config, f"flow.latent.path={tmp_path}", run)
    assert "flow.latent.path" in line
    assert "cannot be read (No such file or directory)" in line
    line = refused(capsys, "check", config, latent, run, "flow.latent.digest=another")
    assert "flow.latent.digest: is another but the index says" in line
    index = json.loads((folder / "index.json").read_text())
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "index.json").write_text(json.dumps({**index, "latents": None}))
    line = refused(capsys, "check", config, f"flow.latent.path={plain}", run)
    assert "belongs to shards that are not latents" in line
    (plain / "index.json").write_text(json.dumps({**index, "latents": {**index["latents"], "shift": [0.0]}}))
    assert "do not fit Gaussians over half of [8, 8, 8]" in refused(
        capsys, "check", config, f"flow.latent.path={plain}", run
    )
