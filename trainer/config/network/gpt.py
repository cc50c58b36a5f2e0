"""Settings of a causal transformer over bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.network.protocol import Input, NetworkConfig
from trainer.config.network.sizes import check_heads

BYTE_VALUES = 256


class GPTConfig(NetworkConfig):
    """A causal transformer over bytes; with a ``moe`` section its feed-forward layers are mixtures of experts."""

    kind: Literal["gpt"] = "gpt"
    hidden: PositiveInt = 64
    """Width of a token, a multiple of 2 x num_heads."""
    num_layers: PositiveInt = 3
    """Blocks of attention and feed-forward layer."""
    num_heads: PositiveInt = 4
    """Heads of attention."""
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

    data_kinds = ("python_source",)
    sample_kinds = ("text",)
    task_kinds = ("next_token",)
    flowless = "a gpt model predicts the next byte"
    moves_tokens = True
    no_mixture = None
    no_compilation = "a gpt turns queries by complex numbers, for which there is no compiled code"
    no_repetition_in_zero_3 = "frees the weights of a gpt's norms, which that still needs"

    @property
    def heads(self) -> int:
        """See `NetworkConfig.heads`."""
        return self.num_heads

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def key_value_width(self) -> int:
        """Elements of a token's keys and values together, in one layer."""
        return 2 * self.key_value_heads * self.hidden // self.num_heads

    @property
    def keyed_dropout(self) -> bool:
        """See `NetworkConfig.keyed_dropout`."""
        return self.dropout > 0

    @property
    def inner(self) -> int:
        """Width inside the dense feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _heads_divide(self) -> "GPTConfig":
        check_heads(self.hidden, self.num_heads, 2)
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                f"num_kv_heads: {self.num_kv_heads} does not divide num_heads {self.num_heads}; choose a divisor"
            )
        return self

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        """See `NetworkConfig.shared_widths`."""
        heads = {"model.num_heads": self.num_heads, "model.num_kv_heads": self.key_value_heads}
        return heads if mixture else {**heads, "model.feed_forward_hidden": self.inner}

    def check_states(self, shape: tuple[int, ...]) -> None:
        """See `NetworkConfig.check_states`; windows of no more bytes than `context`, and one that is predicted."""
        context = self.tokens(shape)
        if context > self.context:
            raise ValueError(
                f"data.context: {context} exceeds model.context {self.context}, the longest sequence of the network; "
                f"use at most {self.context}"
            )

    def tokens(self, state_shape: tuple[int, ...]) -> int:
        """See `NetworkConfig.tokens`; the bytes that a window predicts."""
        (window,) = state_shape
        return window - 1

    def inputs(self, state_shape: tuple[int, ...]) -> tuple[Input, ...]:
        """See `NetworkConfig.inputs`; bytes, and those that follow them."""
        return (Input((self.tokens(state_shape),), integer=True),) * 2

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        """See `NetworkConfig.multiply_adds`."""
        del context_channels
        tokens, width = self.tokens(state_shape), self.hidden
        feed_forward = 2 * width * self.inner if mixture is None else mixture
        attention = tokens * (2 * width + self.key_value_width) * width + 2 * tokens**2 * width
        return self.num_layers * (attention + tokens * feed_forward) + tokens * width * BYTE_VALUES
