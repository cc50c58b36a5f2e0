"""Settings of a diffusion transformer, and of networks whose blocks belong to segments of the time."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from trainer.config.model.protocol import (
    IMAGES,
    Layers,
    NetworkConfig,
    Shape,
    TransformerConfig,
    Width,
    check_image,
    check_vector,
    squares,
)

DIFFUSERS_TIME_WAVES = 256
"""Cosines and sines of a timestep in a DiTTransformer2DModel of diffusers."""


class PatchesConfig(TransformerConfig):
    """Settings of a transformer over the patches of an image."""

    if TYPE_CHECKING:

        @property
        def patch_size(self) -> int: ...

    def check_states(self, shape: Shape) -> None:
        check_image(shape, "model.patch_size", self.patch_size, otherwise="use an mlp model")

    def tokens(self, state_shape: Shape) -> int:
        return squares(state_shape, self.patch_size)


class DiTConfig(PatchesConfig):
    """A diffusion transformer; with a ``moe`` section its feed-forward layers are mixtures of experts."""

    kind: Literal["dit"] = "dit"
    patch_size: PositiveInt = 2
    """Pixels a side of a patch; a patch is a token."""
    hidden: Width = 64
    """Width of a token, a multiple of 4 x num_heads."""
    num_layers: Layers = 3
    """Blocks of attention and feed-forward layer."""
    num_heads: Width = 4
    """Heads of attention."""
    feed_forward_hidden: Width | None = None
    """Width of the dense feed-forward layers; null: 4 x hidden. Unused with a moe section."""
    feed_forward: Literal["gelu", "gelu_tanh"] = "gelu"
    """Activation of the dense feed-forward layers: a GELU, or its approximation by tanh."""
    feed_forward_norm_epsilon: float = Field(default=1e-6, gt=0, lt=1)
    """Epsilon of the norm before a feed-forward layer, which is added to the variance."""
    waves: Literal["plain", "diffusers"] = "plain"
    """Sinusoidal embeddings of time and position. plain: those of this package; diffusers: those of its
    DiTTransformer2DModel, with 256 sinusoids of the timestep 1000 (1 - t) - 1, and the column before the row."""
    embeddings: Literal["shared", "each_block"] = "shared"
    """shared: one embedding of time and class modulates all blocks; each_block: each block has an embedding of its own,
    and that of the first block also modulates the last layer."""
    predicts_variance: bool = False
    """Whether the last layer has outputs for the variance of a diffusion model behind those for its mean. They are kept
    with the weights, and neither used nor trained."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = (*IMAGES, "pairs", "sequences", "moving_pictures")
    sample_kinds = ("images", "sequences", "clips")
    takes_images = True
    unseen_in_shapes = ("num_heads", "feed_forward", "feed_forward_norm_epsilon", "waves")
    reads_context = True
    reads_captions = True
    returns_attention = True

    @property
    def time_waves(self) -> int:
        return DIFFUSERS_TIME_WAVES if self.waves == "diffusers" else self.hidden

    @property
    def no_mixture(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Returns why experts, two matrices around a GELU, cannot replace the dense layers; None if they can."""
        if self.feed_forward == "gelu":
            return None
        return f"model.feed_forward {self.feed_forward} is of dense layers alone; use gelu, or leave moe out"

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        heads = {"model.num_heads": self.num_heads}
        return heads if mixture else {**heads, "model.feed_forward_hidden": self.inner}


class SegmentNetworkConfig(NetworkConfig):
    """Settings of a network some of whose blocks exist once for each of equal parts of the time from 0 to 1."""

    task_kinds = ("flow",)

    if TYPE_CHECKING:

        @property
        def segments(self) -> int: ...

    @property
    def segment_blocks(self) -> range:
        """Returns the indices of the blocks that belong to segments, among all blocks."""
        return range(self.num_layers)


class BlockwiseConfig(SegmentNetworkConfig, PatchesConfig):
    """A diffusion transformer whose last blocks differ from segment to segment of the time."""

    kind: Literal["blockwise"] = "blockwise"
    segments: PositiveInt = 6
    """Equal parts of the time from 0 to 1, each with blocks of its own."""
    patch_size: PositiveInt = 2
    """Pixels a side of a patch; a patch is a token."""
    hidden: Width = 64
    """Width of a token, a multiple of 4 x num_heads."""
    num_heads: Width = 4
    """Heads of attention."""
    trunk_layers: NonNegativeInt = 4
    """Blocks that all segments share; their features modulate the blocks of the segments. 0: time and class alone
    modulate them."""
    segment_layers: PositiveInt = 1
    """Blocks of each segment, one of which runs at a time."""
    residual_layers: NonNegativeInt = 0
    """Blocks that approximate the trunk's features within a segment from those of its first state. They are trained
    after everything else, by flow.objective.kind feature_residual alone."""
    feed_forward_hidden: Width | None = None
    """Width of the feed-forward layers; null: 4 x hidden."""
    teacher_features: PositiveInt | None = None
    """Width of a teacher's features for a token, to which flow.objective.kind aligned aligns the features of the trunk;
    null: there is no teacher."""
    projection_hidden: Width | None = None
    """Width of the layers between the trunk's features and the teacher's; null: 2 x hidden."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""
    init_new: tuple[Literal["residual", "projection"], ...] = ()
    """Parts of the network that are missing in init_from, and start with newly initialised weights."""

    takes_images = True
    reads_context = True
    no_mixture = "the experts of a blockwise model are the blocks of its segments"

    @property
    def num_layers(self) -> int:
        return self.trunk_layers + self.segment_layers + self.residual_layers

    @property
    def segment_blocks(self) -> range:
        return range(self.trunk_layers, self.trunk_layers + self.segment_layers)

    @property
    def projection_inner(self) -> int:
        return self.projection_hidden or 2 * self.hidden

    @property
    def new_parameters(self) -> tuple[str, ...]:
        return self.init_new

    @model_validator(mode="after")
    def _widths_and_parts_fit(self) -> "BlockwiseConfig":
        for field, value in (("residual_layers", self.residual_layers), ("teacher_features", self.teacher_features)):
            if value and not self.trunk_layers:
                raise ValueError(f"{field}: {value} needs the features of a trunk; use trunk_layers above 0")
        return self


class BlockwiseMLPConfig(SegmentNetworkConfig):
    """A perceptron over a vector for each segment of the time."""

    kind: Literal["blockwise_mlp"] = "blockwise_mlp"
    segments: PositiveInt = 6
    """Equal parts of the time from 0 to 1, each with a perceptron of its own."""
    hidden: Width = 64
    """Width of the hidden layers."""
    num_layers: Layers = 3
    """Hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer's values that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training, where there are labels."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("toy", "shards", "pairs")
    sample_kinds = ("points",)
    no_mixture = "the experts of a blockwise_mlp model are the blocks of its segments"

    def check_states(self, shape: Shape) -> None:
        check_vector(shape, self.kind)


Config = DiTConfig | BlockwiseConfig | BlockwiseMLPConfig
