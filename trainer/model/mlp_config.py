"""What a run says about a network for vectors. Free of torch, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


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
