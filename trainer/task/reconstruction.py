"""Autoencoding."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from moe.host_copies import to_device
from trainer.config.model import AutoencoderConfig
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow.objective import LossTerms
from trainer.model.autoencoder import Autoencoder
from trainer.sampling.preview import preview_reconstructions
from trainer.training.task import Networks, Task


class DrawnImages(NamedTuple):
    """Images [B, C, H, W] and the standard normal draws that make latents of them."""

    log_weight: None
    images: Tensor
    noise: Tensor
    sources: Tensor | None = None


class ReconstructionTask(Task[DrawnImages]):
    """Mean squared error of a pixel, and the weighted Kullback-Leibler divergence of a latent value from N(0, 1).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, equation 10.
    """

    def __init__(self, config: RunConfig) -> None:
        """Takes the sizes of the latents and the weight from the network's configuration."""
        assert isinstance(config.model, AutoencoderConfig)
        self.config, self._model = config, config.model

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[DrawnImages]:
        """Each micro batch is drawn on its own."""
        return [self._draw(batch, generator) for batch, generator in zip(batches, generators, strict=True)]

    def loss(self, model: Callable[..., Any], drawn: DrawnImages) -> LossTerms:
        images, mean, log_variance = model(drawn.images, drawn.noise)
        error = (images - drawn.images).square().flatten(1).mean(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
        terms = {"reconstruction_error": error.mean().detach(), "latent_divergence": divergence.mean().detach()}
        return LossTerms(error + self._model.kl_weight * divergence, terms=terms)

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:  # noqa: ARG002
        """Held-out images above their reconstructions."""
        with networks.average() as model:
            assert isinstance(model, Autoencoder)
            preview_reconstructions(self.config, model, stem.with_suffix(".png"))

    def _draw(self, batch: Batch, generator: torch.Generator) -> DrawnImages:
        images = batch.x_1
        height, width = (length // self._model.factor for length in images.shape[2:])
        shape = len(images), self._model.latent_channels, height, width
        noise = to_device(torch.randn(shape, generator=generator), images.device)
        return DrawnImages(None, images, noise, batch.sources)
