"""Settings of networks without attention: perceptrons over vectors, policies and an autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from trainer.config.model.protocol import (
    IMAGES,
    Input,
    Layers,
    NetworkConfig,
    Shape,
    Width,
    check_image,
    check_vector,
)

INPUT_WAVES = 8
"""Frequencies at which the input holds sine and cosine of each value."""


class MLPConfig(NetworkConfig):
    """Residual blocks over a vector such as a point in the plane; with a ``moe`` section they hold experts."""

    kind: Literal["mlp"] = "mlp"
    hidden: Width = 128
    """Width of the residual stream, an even number."""
    num_layers: Layers = 3
    """Residual blocks."""
    feed_forward_hidden: Width | None = None
    """Width inside a block; null: 4 x hidden. Unused with a moe section."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training, where there are labels."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("toy", "shards", "pairs")
    sample_kinds = ("points",)
    no_mixture = None

    @property
    def inner(self) -> int:
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _waves_come_in_pairs(self) -> "MLPConfig":
        if self.hidden % 2:
            raise ValueError(f"hidden: {self.hidden} is odd, and time takes sines and cosines; use {self.hidden + 1}")
        return self

    def check_states(self, shape: Shape) -> None:
        check_vector(shape, self.kind)


@dataclass(frozen=True)
class PolicySizes:
    """Sizes of a policy's input and output: states on the longest path to an object, and actions, the stop included."""

    states: int
    features: int
    condition: int
    actions: int
    backward: bool


class PolicyMLPConfig(NetworkConfig):
    """Residual blocks over the features of a state and a condition; they choose the next action."""

    kind: Literal["policy_mlp"] = "policy_mlp"
    hidden: Width = 96
    """Width of the residual stream."""
    num_layers: Layers = 2
    """Residual blocks."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("numbers",)
    sample_kinds = ("objects",)
    task_kinds = ("trajectory_balance",)
    flowless = "a policy_mlp learns to build objects"
    no_mixture = "a policy_mlp has no feed-forward layers to make experts of"

    _sizes: PolicySizes | None = PrivateAttr(default=None)

    @property
    def sizes(self) -> PolicySizes:
        if self._sizes is None:
            raise ValueError(
                f"model.kind: {self.kind} needs to know the environment, which a task of kind trajectory_balance "
                "names; use one, or a network of your own"
            )
        return self._sizes

    def fitted(self, task: Any) -> "PolicyMLPConfig":
        sizes = getattr(task, "policy_sizes", None)
        if sizes is None or sizes == self._sizes:
            return self
        fitted = self.model_copy()
        fitted._sizes = sizes
        return fitted

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        del state_shape
        return Input((self.sizes.states, self.sizes.features)), Input((self.sizes.condition,))


class DescriptorMLPConfig(NetworkConfig):
    """Residual blocks that map the signatures of a surface's point, each point by itself, to its feature."""

    kind: Literal["descriptor_mlp"] = "descriptor_mlp"
    hidden: Width = 128
    """Width of the residual stream."""
    num_layers: Layers = 3
    """Residual blocks."""
    features: Width = 128
    """Width of the feature of a point."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("surfaces",)
    sample_kinds = ("surfaces",)
    task_kinds = ("correspondence",)
    flowless = "a descriptor_mlp learns features of points"
    no_mixture = "a descriptor_mlp has no feed-forward layers to make experts of"

    def check_states(self, shape: Shape) -> None:
        if len(shape) != 3 or shape[0] != 2:
            raise ValueError(
                f"data: examples of shape {list(shape)} are no signatures of two surfaces; use data.kind surfaces"
            )

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return (Input(state_shape),)


LARGEST_FACTOR = 16


class AutoencoderConfig(NetworkConfig):
    """A variational autoencoder of images, whose latents another run learns from (the encode verb)."""

    kind: Literal["autoencoder"] = "autoencoder"
    hidden: Width = 64
    """Channels inside, a multiple of 8."""
    num_layers: Layers = 4
    """Residual blocks, an even number: the first half encodes, the second decodes."""
    latent_channels: PositiveInt = 4
    """Channels of a latent."""
    factor: Literal[1, 2, 4, 8, 16] = 2
    """Pixels a side of the image for one position of the latent: the factor of downsampling."""
    kl_weight: float = Field(default=1e-3, ge=0)
    """Weight of the Kullback-Leibler term, in nats a latent value, beside the mean squared error of a pixel."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = IMAGES
    sample_kinds = ("reconstructions",)
    task_kinds = ("reconstruction",)
    takes_images = True
    flowless = "an autoencoder predicts what it was shown"
    no_mixture = "an autoencoder has no feed-forward layers to make experts of"

    @model_validator(mode="after")
    def _sizes_divide(self) -> "AutoencoderConfig":
        if self.num_layers % 2:
            raise ValueError(f"num_layers: {self.num_layers} is odd, and half encode; use {self.num_layers + 1}")
        if self.hidden % 8:
            raise ValueError(f"hidden: {self.hidden} is not a multiple of 8; use {8 * (self.hidden // 8 + 1)}")
        return self

    def check_states(self, shape: Shape) -> None:
        check_image(shape, "model.factor", self.factor, limit=LARGEST_FACTOR, otherwise="give images")

    def latent_shape(self, image_shape: Shape) -> tuple[int, int, int]:
        _, height, width = image_shape
        return self.latent_channels, height // self.factor, width // self.factor

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return Input(state_shape), Input(self.latent_shape(state_shape))


Config = MLPConfig | PolicyMLPConfig | DescriptorMLPConfig | AutoencoderConfig
