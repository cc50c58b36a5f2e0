"""States that are latents: what a frozen autoencoder makes of images, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.pretrained import check_restorable, restore
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import PairsConfig
from trainer.data.latents import LatentsConfig, read_latents
from trainer.data.shard.index import LatentsEntry
from trainer.flow.space import Identity, Space
from trainer.model.autoencoder import Autoencoder


class Coder(Protocol):
    """An autoencoder in evaluation mode."""

    def encode(self, images: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Mean and logarithm of the variance [B, Z, h, w] of the latents of images; no variance: the mean itself."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Images [B, C, H, W] of latents [B, Z, h, w]."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """Moves its weights."""
        ...


class Latents(Space):
    """Draws from the Gaussians that an autoencoder makes of images, shifted and scaled to about N(0, 1).

    Source: Dao et al., "Flow Matching in Latent Space", arXiv 2307.08698, section 4: a sample of the posterior, drawn
    anew each time.
    """

    def __init__(self, coder: Coder, shift: Sequence[float], scale: Sequence[float]) -> None:
        self._coder = coder
        self._shift, self._scale = (torch.tensor(values).reshape(-1, 1, 1) for values in (shift, scale))

    @torch.no_grad()
    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Space.encode`."""
        latents, log_variance = self._gaussians(examples)
        if log_variance is not None:
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            latents = latents + (0.5 * log_variance).exp() * noise
        shift, scale = self._statistics(latents.device)
        return (latents - shift) / scale

    @torch.no_grad()
    def of_images(self, images: Tensor) -> Tensor:
        """The mean states [B, Z, h, w] of images [B, C, H, W], whatever the examples are; nothing is drawn."""
        self._coder.to(images.device)
        latents, _ = self._coder.encode(images)
        shift, scale = self._statistics(latents.device)
        return (latents - shift) / scale

    def decode(self, states: Tensor) -> Tensor:
        """See `Space.decode`."""
        self._coder.to(states.device)
        shift, scale = self._statistics(states.device)
        return self._coder.decode(states * scale + shift)

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Space.shown`; they are images."""
        return examples

    def _gaussians(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        self._coder.to(examples.device)
        return self._coder.encode(examples)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self._shift.to(device), self._scale.to(device)


class PairedLatents(Latents):
    """The same where the examples are states already, [B, Z, h, w], as in pairs that a teacher has drawn."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Space.encode`; nothing is drawn."""
        return examples

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Space.shown`; what the autoencoder makes of them."""
        return self.decode(examples)


class StoredLatents(Latents):
    """The same where the examples are the Gaussians, [B, 2 Z, h, w], so that no image is encoded twice."""

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """See `Space.shown`; what the autoencoder makes of draws from them."""
        return self.decode(self.encode(examples, generator=generator))

    def _gaussians(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, log_variance = examples.chunk(2, dim=1)
        return mean, log_variance


def states_of_images(space: Space, images: Tensor) -> Tensor:
    """The states [B, *D] of images [B, C, H, W], also where the examples of a run are latents already."""
    return space.of_images(images) if isinstance(space, Latents) else images


def build(config: RunConfig) -> Space:
    """The space of a run's states; :func:`check_latents` has passed."""
    latent = config.flow and config.flow.latent
    if latent is None:
        return Identity()
    autoencoder_config, entry = _autoencoder_config(latent)
    coder = restore(autoencoder_config, Layout.single(autoencoder_config), latent.path / entry.autoencoder)
    assert isinstance(coder, Autoencoder)
    kind = StoredLatents if config.data_are_latents else Latents
    kind = PairedLatents if isinstance(config.data, PairsConfig) else kind
    return kind(coder.requires_grad_(False), entry.shift, entry.scale)


def check_latents(config: RunConfig) -> None:
    """Refuses a folder of latents that is not what the run began with."""
    latent = config.flow and config.flow.latent
    if latent is None:
        return
    index, _ = read_latents(latent.path)
    if index.digest != latent.digest:
        remedy = "bring the folder back, or leave the field out to start another run"
        problem = f"is {latent.digest} but the index says {index.digest}"
        raise Refusal(latent.path, "flow.latent.digest", problem, remedy)
    autoencoder_config, entry = _autoencoder_config(latent)
    check_restorable(autoencoder_config, latent.path / entry.autoencoder)


def _autoencoder_config(latent: LatentsConfig) -> tuple[RunConfig, LatentsEntry]:
    _, entry = read_latents(latent.path)
    return load_run(latent.path / entry.autoencoder), entry
