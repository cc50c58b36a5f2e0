"""What a run says about a language model. Free of torch, so that a configuration is checked fast."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


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
