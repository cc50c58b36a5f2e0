"""What a run says about an autoencoder. Free of torch, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


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
