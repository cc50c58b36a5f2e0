"""What a run says about its network. Free of torch, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator


class DiTConfig(BaseModel):
    """A diffusion transformer; with a ``moe`` section its feed-forward layers are mixtures of experts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["dit"] = "dit"
    patch_size: PositiveInt = 2
    """Pixels a side of a patch; a patch is a token."""
    hidden: PositiveInt = 64
    """Width of a token, a multiple of 4 x num_heads."""
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    feed_forward_hidden: PositiveInt | None = None
    """Width of the dense feed-forward layers; null: 4 x hidden. Unused with a moe section."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "DiTConfig":
        if self.hidden % (4 * self.num_heads):
            raise ValueError(
                f"hidden: {self.hidden} is not a multiple of 4 x num_heads {self.num_heads}; "
                f"choose {4 * self.num_heads * max(1, round(self.hidden / (4 * self.num_heads)))}"
            )
        return self


class GPTConfig(BaseModel):
    """A causal transformer over bytes; with a ``moe`` section its feed-forward layers are mixtures of experts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["gpt"] = "gpt"
    hidden: PositiveInt = 64
    """Width of a token, a multiple of 2 x num_heads."""
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, a divisor of num_heads that share them; null: as many as num_heads."""
    feed_forward_hidden: PositiveInt | None = None
    """Width of the dense feed-forward layers; null: 4 x hidden. Unused with a moe section."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each sublayer's output that is dropped while training."""
    context: PositiveInt = 256
    """Bytes of the longest sequence."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def key_value_width(self) -> int:
        """Elements of a token's keys and values together, in one layer."""
        return 2 * self.key_value_heads * self.hidden // self.num_heads

    @model_validator(mode="after")
    def _heads_divide(self) -> "GPTConfig":
        if self.hidden % (2 * self.num_heads):
            raise ValueError(
                f"hidden: {self.hidden} is not a multiple of 2 x num_heads {self.num_heads}; "
                f"choose {2 * self.num_heads * max(1, round(self.hidden / (2 * self.num_heads)))}"
            )
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                f"num_kv_heads: {self.num_kv_heads} does not divide num_heads {self.num_heads}; choose a divisor"
            )
        return self


class MLPConfig(BaseModel):
    """Residual blocks over a vector such as a point in the plane; with a ``moe`` section they hold experts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mlp"] = "mlp"
    hidden: PositiveInt = 128
    """Width, an even number."""
    num_layers: PositiveInt = 3
    """Residual blocks."""
    feed_forward_hidden: PositiveInt | None = None
    """Width inside a block; null: 4 x hidden. Unused with a moe section."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training, where there are labels."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    @property
    def num_heads(self) -> int:
        """There is no attention; what is built from a transformer's sizes has one head."""
        return 1

    @model_validator(mode="after")
    def _waves_come_in_pairs(self) -> "MLPConfig":
        if self.hidden % 2:
            raise ValueError(f"hidden: {self.hidden} is odd, and time takes sines and cosines; use {self.hidden + 1}")
        return self


class AutoencoderConfig(BaseModel):
    """A variational autoencoder of images, whose latents another run learns from (the encode verb)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["autoencoder"] = "autoencoder"
    hidden: PositiveInt = 64
    """Channels inside, a multiple of 8."""
    num_layers: PositiveInt = 4
    """Residual blocks, an even number: the first half encodes, the second decodes."""
    latent_channels: PositiveInt = 4
    factor: Literal[1, 2, 4, 8, 16] = 2
    """Pixels a side of the image for one of the latents."""
    kl_weight: float = Field(default=1e-3, ge=0)
    """Of the Kullback-Leibler term, nats a latent value, beside the mean squared error of a pixel."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    @property
    def num_heads(self) -> int:
        """There is no attention; what is built from a transformer's sizes has one head."""
        return 1

    @property
    def dropout(self) -> float:
        """Nothing is dropped."""
        return 0.0

    @property
    def feed_forward_hidden(self) -> int:
        """Channels inside a block."""
        return self.hidden

    @model_validator(mode="after")
    def _sizes_divide(self) -> "AutoencoderConfig":
        if self.num_layers % 2:
            raise ValueError(f"num_layers: {self.num_layers} is odd, and half encode; use {self.num_layers + 1}")
        if self.hidden % 8:
            raise ValueError(f"hidden: {self.hidden} is no multiple of 8; use {8 * (self.hidden // 8 + 1)}")
        return self


class BlockwiseConfig(BaseModel):
    """A diffusion transformer whose last blocks differ from segment to segment of the time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["blockwise"] = "blockwise"
    segments: PositiveInt = 6
    """Equal parts of the time from 0 to 1, each with blocks of its own."""
    patch_size: PositiveInt = 2
    """Pixels a side of a patch; a patch is a token."""
    hidden: PositiveInt = 64
    """Width of a token, a multiple of 4 x num_heads."""
    num_heads: PositiveInt = 4
    trunk_layers: NonNegativeInt = 4
    """Blocks that all segments share, and that make the features which steer the others; 0: time and class alone do."""
    segment_layers: PositiveInt = 1
    """Blocks of each segment, one of which runs at a time."""
    residual_layers: NonNegativeInt = 0
    """Blocks that approximate the features within a segment from those of its first state; trained when everything
    else is, see flow.objective.kind feature_residual."""
    feed_forward_hidden: PositiveInt | None = None
    """Width of the feed-forward layers; null: 4 x hidden."""
    teacher_features: PositiveInt | None = None
    """Values of a teacher's features for a token, which flow.objective.kind aligned makes the trunk's agree with;
    null: there is no teacher."""
    projection_hidden: PositiveInt | None = None
    """Width of the layers between the trunk's features and the teacher's; null: 2 x hidden."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""
    init_new: tuple[Literal["residual", "projection"], ...] = ()
    """Parts of the network that init_from does not have and that start as they are drawn."""

    @property
    def num_layers(self) -> int:
        """All blocks."""
        return self.trunk_layers + self.segment_layers + self.residual_layers

    @property
    def inner(self) -> int:
        """Width inside the feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _widths_and_parts_fit(self) -> "BlockwiseConfig":
        if self.hidden % (4 * self.num_heads):
            raise ValueError(
                f"hidden: {self.hidden} is not a multiple of 4 x num_heads {self.num_heads}; "
                f"choose {4 * self.num_heads * max(1, round(self.hidden / (4 * self.num_heads)))}"
            )
        for field, value in (("residual_layers", self.residual_layers), ("teacher_features", self.teacher_features)):
            if value and not self.trunk_layers:
                raise ValueError(f"{field}: {value} is about the features of a trunk; use trunk_layers above 0")
        return self


class BlockwiseMLPConfig(BaseModel):
    """A perceptron over a vector for each segment of the time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["blockwise_mlp"] = "blockwise_mlp"
    segments: PositiveInt = 6
    """Equal parts of the time from 0 to 1, each with a perceptron of its own."""
    hidden: PositiveInt = 64
    """Width."""
    num_layers: PositiveInt = 3
    """Hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer's values that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training, where there are labels."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    @property
    def num_heads(self) -> int:
        """There is no attention; what is built from a transformer's sizes has one head."""
        return 1
