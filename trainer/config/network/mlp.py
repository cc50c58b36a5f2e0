"""Settings of a network for vectors."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from trainer.config.network.protocol import NetworkConfig
from trainer.config.network.sizes import Layers, Width, check_vector

INPUT_WAVES = 8
"""Frequencies at which the input holds sine and cosine of each value."""


class MLPConfig(NetworkConfig):
    """Residual blocks over a vector such as a point in the plane; with a ``moe`` section they hold experts."""

    kind: Literal["mlp"] = "mlp"
    hidden: Width = 128
    """Width, an even number."""
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
    no_division = "share attention heads, which mlp lacks"

    @property
    def inner(self) -> int:
        """Width inside the dense feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _waves_come_in_pairs(self) -> "MLPConfig":
        if self.hidden % 2:
            raise ValueError(f"hidden: {self.hidden} is odd, and time takes sines and cosines; use {self.hidden + 1}")
        return self

    def check_states(self, shape: tuple[int, ...]) -> None:
        check_vector(shape, self.kind)

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        del context_channels
        (values,), width = state_shape, self.hidden
        feed_forward = 2 * width * self.inner if mixture is None else mixture
        embedding = 2 * width**2 + width * values * (1 + 2 * INPUT_WAVES)
        return embedding + self.num_layers * (3 * width**2 + feed_forward) + 2 * width**2 + width * values
