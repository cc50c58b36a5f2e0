"""Settings of networks that learn features or clusters of images without labels."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from trainer.config.model.protocol import IMAGES, Input, Layers, NetworkConfig, Shape, Width, check_image

LARGEST_FACTOR = 16
NARROWING = 4
"""What the layer inside the predictor is narrower by."""


class ContrastiveConfig(NetworkConfig):
    """An encoder of images whose output is their features, a projector and a predictor, which training alone needs."""

    kind: Literal["contrastive"] = "contrastive"
    hidden: Width = 32
    """Channels inside the encoder, a multiple of 8."""
    num_layers: Layers = 2
    """Residual blocks of the encoder."""
    factor: Literal[1, 2, 4, 8, 16] = 2
    """Pixels a side of the image for one position of the encoder: the factor of downsampling."""
    features: Width = 128
    """Number of features of an image."""
    projected: Width = Field(default=64, multiple_of=NARROWING)
    """Width of the projections by which views are compared, a multiple of 4."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = IMAGES
    sample_kinds = ("examples",)
    task_kinds = ("contrastive",)
    takes_images = True
    flowless = "a contrastive network learns features"
    no_mixture = "a contrastive network has no feed-forward layers to make experts of"

    @model_validator(mode="after")
    def _channels_come_in_groups(self) -> "ContrastiveConfig":
        if self.hidden % 8:
            raise ValueError(f"hidden: {self.hidden} is not a multiple of 8; use {8 * (self.hidden // 8 + 1)}")
        return self

    def check_states(self, shape: Shape) -> None:
        check_image(shape, "model.factor", self.factor, limit=LARGEST_FACTOR, otherwise="give images")

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return (Input(state_shape),)


class PrototypesConfig(NetworkConfig):
    """Residual blocks over a whole example; the direction of their output is compared with each cluster's prototype.

    An image is standardised and read as a vector; features that another network made of larger ones are read as they
    are. At first the features are a random projection of the example.
    """

    kind: Literal["prototypes"] = "prototypes"
    clusters: int = Field(default=10, ge=2, le=1_000_000)
    """Number of clusters, each with one prototype."""
    hidden: Width = 128
    """Width of the residual stream, and number of features."""
    num_layers: Layers = 2
    """Residual blocks."""
    feed_forward_hidden: Width | None = None
    """Width inside a block; null: 2 x hidden."""
    temperature: PositiveFloat = 0.1
    """Temperature that the cosines of features and prototypes are divided by; a small one makes the network surer of
    the nearest prototype."""
    begin: Literal["drawn", "k_means"] = "drawn"
    """Initial prototypes. drawn: random directions; k_means: the means of the clusters of k-means among the features of
    up to 20,000 training examples."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = (*IMAGES, "toy")
    sample_kinds = ("examples",)
    task_kinds = ("clustering",)
    flowless = "a prototypes network learns clusters"
    unseen_in_shapes = ("temperature",)

    @model_validator(mode="after")
    def _weights_have_one_source(self) -> "PrototypesConfig":
        if self.begin == "k_means" and self.init_from is not None:
            raise ValueError("begin: k_means would replace the prototypes that init_from loads; use drawn")
        return self

    @property
    def inner(self) -> int:
        """Width inside a block."""
        return self.feed_forward_hidden or 2 * self.hidden

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return (Input(state_shape),)


Config = PrototypesConfig | ContrastiveConfig
