"""The parts of a flow that drawing needs besides its network, and the space of its states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed, fold_in
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.pretrained import check_restorable, restore
from trainer.config.file import load_run
from trainer.config.layout import Layout
from trainer.config.model import CausalTransitionConfig
from trainer.config.model.dit import BlockwiseConfig, BlockwiseMLPConfig
from trainer.config.run import RunConfig
from trainer.data import Batch, PairsConfig, Split
from trainer.data.derived import source_points
from trainer.data.shard.index import LatentsEntry
from trainer.data.shards import LatentsConfig, read_latents
from trainer.flow import Condition, coupling
from trainer.flow.context import Identity, Space
from trainer.flow.coupling.protocol import keyed_normals
from trainer.flow.field import CausalField, NetworkField, Predict, SegmentField, TransitionField, guided
from trainer.flow.letters import Letters
from trainer.flow.sampler import Field
from trainer.model.autoencoder import Autoencoder
from trainer.model.transition import chain_of


class Coder(Protocol):
    """An autoencoder in evaluation mode."""

    def encode(self, images: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Mean and log variance [B, Z, h, w] of the latents of images; variance None: the latents are the mean."""
        ...

    def decode(self, latents: Tensor, /) -> Tensor:
        """Images [B, C, H, W] of latents [B, Z, h, w]."""
        ...

    def to(self, device: torch.device, /) -> Any:
        """Moves its weights."""
        ...


class Latents(Space):
    """The space of an autoencoder's latents, sampled from its Gaussians, shifted and scaled to about N(0, 1).

    Source: Dao et al., "Flow Matching in Latent Space", arXiv 2307.08698, section 4: a sample of the posterior, drawn
    anew each time.
    """

    def __init__(self, coder: Coder, shift: Sequence[float], scale: Sequence[float]) -> None:
        self._coder = coder
        self._shift, self._scale = (torch.tensor(values).reshape(-1, 1, 1) for values in (shift, scale))

    @torch.no_grad()
    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
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
        self._coder.to(states.device)
        shift, scale = self._statistics(states.device)
        return self._coder.decode(states * scale + shift)

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The examples, which are images."""
        return examples

    def _gaussians(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        self._coder.to(examples.device)
        return self._coder.encode(examples)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self._shift.to(device), self._scale.to(device)


class PairedLatents(Latents):
    """Latents where the examples are states already, [B, Z, h, w], as in pairs that a teacher has drawn."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The examples, which are states; nothing is drawn."""
        return examples

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Decoded by the autoencoder."""
        return self.decode(examples)


class StoredLatents(Latents):
    """Latents where the examples are the Gaussians, [B, 2 Z, h, w], so that no image is encoded twice."""

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draws from them, decoded by the autoencoder."""
        return self.decode(self.encode(examples, generator=generator))

    def _gaussians(self, examples: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, log_variance = examples.chunk(2, dim=1)
        return mean, log_variance


def states_of_images(space: Space, images: Tensor) -> Tensor:
    """The states [B, *D] of images [B, C, H, W], also where the examples of a run are latents already."""
    return space.of_images(images) if isinstance(space, Latents) else images


def build_space(config: RunConfig) -> Space:
    """The space of a run's states; :func:`check_latents` has passed."""
    latent = config.flow and config.flow.latent
    if latent is None:
        return Letters() if config.alphabet else Identity()
    autoencoder_config, entry = _autoencoder_config(latent)
    coder = restore(autoencoder_config, Layout.single(autoencoder_config), latent.path / entry.autoencoder)
    assert isinstance(coder, Autoencoder)
    kind = StoredLatents if config.data_are_latents else Latents
    kind = PairedLatents if isinstance(config.data, PairsConfig) else kind
    return kind(coder.requires_grad_(False), entry.shift, entry.scale)


def check_latents(config: RunConfig) -> None:
    """Refuses a folder of latents other than the one that the run began with."""
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


def keys_of(examples: Tensor, purpose: str, *, seed: int) -> Tensor:
    """Keys int64 [B] for a purpose's random draws, by example number; ``trajectory`` is the noise of a sampler."""
    return fold_in(torch.tensor(derive_seed(seed, purpose)), examples)


def source_examples(config: RunConfig, examples: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """Source examples [B, *shape] of a run whose paths begin at a data set, its own or another; on the CPU."""
    assert config.flow is not None
    assert config.source_data is not None
    points = source_points(trainer.data.build(config.source_data), examples, seed=seed, split=split)
    return config.flow.data_scale * points if config.flow.path.kind == "mirror_interpolant" else points


class FlowParts:
    """Parts of a flow that drawing needs besides its network.

    Attributes:
        space: encodes examples as states of the flow, and decodes them.
        context: makes the part of an image that the network reads beside the state; None if there is none.
        data_scale: the factor between the data and the states at the ends of paths.
        fields: channels of the image and of the label in a state; empty where a state has no label.
        chain: the states that a causal network draws; None: the network predicts a quantity at a state.
    """

    def __init__(self, config: RunConfig, space: Space | None = None) -> None:
        """Builds the parts of a run; `space` is that of its states where it is built already."""
        assert config.flow is not None
        self.space = build_space(config) if space is None else space
        self.context = config.flow.context
        self.data_scale = config.flow.data_scale
        self.path = config.flow.path.build()
        self.target = config.flow.target.build(self.path)
        self.coupling = coupling.build(config.flow.coupling, config.data.num_classes)
        self.null_label = config.num_labels
        channels, total = config.example_shape[0], config.state_shape[0]
        self.fields = {"image": channels, "label": total - channels} if config.labels_in_state else {}
        self._config = config
        self._network = config.model
        model = config.model
        self.chain = chain_of(model, config.state_shape) if isinstance(model, CausalTransitionConfig) else None

    def field(self, model: Callable[..., Tensor], condition: Condition, guidance: float) -> Field:
        """The field of a condition; guidance contrasts it with no class and no caption in the same context."""
        condition = self.of_any_caption(replace(condition, label=None, context=None) if self.fields else condition)
        unlabelled = condition
        if condition.label is not None:
            unlabelled = replace(condition, label=torch.full_like(condition.label, self.null_label))
        if condition.caption is not None and not self._config.encodes_captions:
            unlabelled = replace(unlabelled, caption=torch.zeros_like(condition.caption))

        if self.chain is not None:
            return CausalField(model, condition, unlabelled, guidance, self.chain)

        def bind(network: Callable[[Tensor, Tensor, Condition], Tensor]) -> Predict:
            return guided(network, condition, unlabelled, guidance)

        if "transition" in self._network.objective_kinds:
            return TransitionField.bound(model, self.target, condition, unlabelled, guidance)
        if not isinstance(self._network, BlockwiseConfig | BlockwiseMLPConfig):
            return NetworkField(bind(model), self.target)
        approximates = isinstance(self._network, BlockwiseConfig) and self._network.residual_layers > 0
        return SegmentField(bind(model), self.target, model, bind, self._network.segments, approximates)

    def of_any_caption(self, condition: Condition) -> Condition:
        """The condition with class 0, that of any caption, where paths begin at captions; drops the data's class."""
        if not self._config.encodes_captions or condition.caption is None:
            return condition
        return replace(condition, label=torch.zeros_like(condition.caption[:, 0], dtype=torch.int64))

    def starts(self, condition: Condition, examples: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
        """States [B, *shape] at which the paths of samples [B] begin, by their numbers and conditions; on the CPU.

        They are examples of a data set where the run has such a source. Otherwise the coupling draws them, or they are
        standard normal if a user's coupling has no `start`.
        """
        if self._config.source_data is not None:
            return source_examples(self._config, examples, seed=seed, split=split)
        keys = keys_of(examples, "start", seed=seed)
        start = getattr(self.coupling, "start", None)
        shape = self._config.state_shape
        return self.path.start(keyed_normals(shape, keys) if start is None else start(shape, condition, keys))

    def states_of(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """The states [B, *D] at which paths to examples [B, *shape] end."""
        state = self.space.encode(examples, generator=generator)
        return state if self.data_scale == 1 else self.data_scale * state

    def data_of(self, x: Tensor) -> Tensor:
        """The data [B, *D] in states at the end of a path, without labels and without `data_scale`."""
        x = x[:, : self.fields["image"]] if self.fields else x
        return x if self.data_scale == 1 else x / self.data_scale

    def context_of(self, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """The context of each example, made from its image or read from the data; None where there is none."""
        if self.context is None:
            return batch.context
        return self.context.draw(batch.x_1, self.space, generator=generator).context
