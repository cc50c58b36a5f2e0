"""Tasks that learn from examples as they are: the next token of a text, and images from their latents."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moe.host_copies import to_device
from trainer.config.model import AutoencoderConfig
from trainer.config.run import RunConfig
from trainer.config.sample import TextSample
from trainer.config.task import NextTokenTaskConfig, ReconstructionTaskConfig
from trainer.data import Batch
from trainer.flow.objective import LossTerms
from trainer.model.autoencoder import Autoencoder
from trainer.sampling.preview import preview_reconstructions
from trainer.sampling.text import preview_texts
from trainer.training.task import Builders, MicroBatchTask, Networks


class DrawnWindows(NamedTuple):
    """Windows of text, int64 [B, N + 1]."""

    log_weight: None
    tokens: Tensor
    sources: Tensor | None = None


class NextTokenTask(MicroBatchTask[DrawnWindows]):
    """Each token of a window but the first, predicted from those before it; an example's loss is its mean in nats."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnWindows:  # noqa: ARG002
        return DrawnWindows(None, batch.x_1, batch.sources)

    def loss(self, model: Callable[..., Tensor], drawn: DrawnWindows) -> LossTerms:
        return LossTerms(model(drawn.tokens[:, :-1], drawn.tokens[:, 1:]), terms={})

    def examine(self, model: Callable[..., Tensor], drawn: DrawnWindows) -> Mapping[str, Tensor]:
        """The loss of each window, in nats a token and in bits a byte of text, the measure of compressors.

        A token counts as the mean number of bytes of one in the held-out documents of its source. End tokens are part
        of the loss.
        """
        loss = self.loss(model, drawn).per_example
        bytes_per_token = getattr(self.config.data, "bytes_per_token", 1.0)
        if drawn.sources is not None:
            bytes_per_token = loss.new_tensor(bytes_per_token, dtype=torch.float64)[drawn.sources]
        return {"held_out_loss": loss, "held_out_bits_per_byte": loss.double() / math.log(2) / bytes_per_token}

    def summarise(self, figures: Mapping[str, float]) -> Mapping[str, float]:
        """``held_out_perplexity``, the exponential of the loss a token; empty without a tokenizer."""
        if getattr(self.config.data, "tokenizer", None) is None:
            return {}
        return {"held_out_perplexity": math.exp(min(figures["held_out_loss"], 700.0))}

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:
        assert isinstance(self.config.sample, TextSample)
        with networks.average() as model:
            preview_texts(self.config, model, stem.with_suffix(".txt"), seed=seed)


class DrawnImages(NamedTuple):
    """Images [B, C, H, W] and the standard normal draws that make latents of them."""

    log_weight: None
    images: Tensor
    noise: Tensor
    sources: Tensor | None = None


class ReconstructionTask(MicroBatchTask[DrawnImages]):
    """Mean squared error of a pixel, and the weighted Kullback-Leibler divergence of a latent value from N(0, 1).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, equation 10.
    """

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.model, AutoencoderConfig)
        self.config, self._model = config, config.model

    def loss(self, model: Callable[..., Any], drawn: DrawnImages) -> LossTerms:
        images, mean, log_variance = model(drawn.images, drawn.noise)
        error = (images - drawn.images).square().flatten(1).mean(1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
        terms = {"reconstruction_error": error.mean().detach(), "latent_divergence": divergence.mean().detach()}
        return LossTerms(error + self._model.kl_weight * divergence, terms=terms)

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:  # noqa: ARG002
        with networks.average() as model:
            assert isinstance(model, Autoencoder)
            preview_reconstructions(self.config, model, stem.with_suffix(".png"))

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnImages:
        images = batch.x_1
        height, width = (length // self._model.factor for length in images.shape[2:])
        shape = len(images), self._model.latent_channels, height, width
        noise = to_device(torch.randn(shape, generator=generator), images.device)
        return DrawnImages(None, images, noise, batch.sources)


TASKS: Builders = {NextTokenTaskConfig: NextTokenTask, ReconstructionTaskConfig: ReconstructionTask}
