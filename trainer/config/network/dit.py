"""Settings of a diffusion transformer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.network.protocol import NetworkConfig
from trainer.config.network.sizes import Layers, Width, check_heads, check_image, squares

DIFFUSERS_TIME_WAVES = 256
"""Cosines and sines of a timestep in a DiTTransformer2DModel of diffusers."""


class DiTConfig(NetworkConfig):
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
    """What the norm before a feed-forward layer adds to the variance."""
    waves: Literal["plain", "diffusers"] = "plain"
    """Cosines and sines that stand for time and place. diffusers: those of its DiTTransformer2DModel, 256 of the
    timestep 1000 (1 - t) - 1, and of the column before the row."""
    embeddings: Literal["shared", "each_block"] = "shared"
    """Whether all blocks are steered by one embedding of time and class, or each by its own; the last layer is steered
    by that of the first block."""
    predicts_variance: bool = False
    """Whether the last layer has outputs for the variance of a diffusion model behind those for its mean. They are kept
    with the weights, and neither used nor trained."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    takes_images = True
    unseen_in_shapes = ("num_heads", "feed_forward", "feed_forward_norm_epsilon", "waves")
    reads_context = True
    reads_captions = True
    tells_attention = True

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def inner(self) -> int:
        """Width inside the dense feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @property
    def time_waves(self) -> int:
        """Cosines and sines of the time."""
        return DIFFUSERS_TIME_WAVES if self.waves == "diffusers" else self.hidden

    @property
    def no_mixture(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Experts are two matrices around a GELU."""
        if self.feed_forward == "gelu":
            return None
        return f"model.feed_forward {self.feed_forward} is of dense layers alone; use gelu, or leave moe out"

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "DiTConfig":
        check_heads(self.hidden, self.num_heads, 4)
        return self

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        heads = {"model.num_heads": self.num_heads}
        return heads if mixture else {**heads, "model.feed_forward_hidden": self.inner}

    def check_states(self, shape: tuple[int, ...]) -> None:
        """An image that patches divide."""
        check_image(shape, "model.patch_size", self.patch_size, otherwise="use an mlp model")

    def tokens(self, state_shape: tuple[int, ...]) -> int:
        return squares(state_shape, self.patch_size)

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        tokens, width, area = self.tokens(state_shape), self.hidden, self.patch_size**2
        feed_forward = 2 * width * self.inner if mixture is None else mixture
        patch_values = state_shape[0] * area
        embeddings = self.num_layers if self.embeddings == "each_block" else 1
        of_time = embeddings * (self.time_waves + width) * width
        embedding = of_time + tokens * width * (patch_values + context_channels * area)
        attention = 4 * tokens * width**2 + 2 * tokens**2 * width
        modulation = 6 * width**2
        unembedding = 2 * width**2 + (2 if self.predicts_variance else 1) * tokens * width * patch_values
        return embedding + self.num_layers * (attention + modulation + tokens * feed_forward) + unembedding
