"""What a run says about its network. Free of torch, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


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
