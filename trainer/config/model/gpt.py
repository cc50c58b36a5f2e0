"""Settings of a causal transformer over tokens of text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.model.protocol import Input, Layers, Shape, TransformerConfig, Width

BYTE_VALUES = 256
_PLAIN = {"feed_forward": "gelu", "bias": "false", "parallel_residual": "false"}


class GPTConfig(TransformerConfig):
    """A causal transformer over tokens; with a ``moe`` section its feed-forward layers are mixtures of experts."""

    kind: Literal["gpt"] = "gpt"
    hidden: Width = 64
    """Width of a token, a multiple of 2 x num_heads."""
    num_layers: Layers = 3
    """Blocks of attention and feed-forward layer."""
    num_heads: Width = 4
    """Heads of attention."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, a divisor of num_heads that share them; null: as many as num_heads."""
    feed_forward_hidden: Width | None = None
    """Width of the dense feed-forward layers; null: 4 x hidden. Unused with a moe section."""
    norm: Literal["rms", "layer"] = "rms"
    """rms: values over their root mean square, times a scale; layer: LayerNorm, with a scale and a bias."""
    norm_epsilon: float = Field(default=1e-6, gt=0, lt=1)
    """Epsilon of the norms, which is added to the mean square or the variance."""
    feed_forward: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    """Activation of the dense feed-forward layers: a GELU, its approximation by tanh, or a product with a gate
    (SwiGLU), which takes a third matrix."""
    bias: bool = False
    """Whether the linear layers of the blocks have biases."""
    parallel_residual: bool = False
    """Whether the feed-forward layer of a block reads the input of its attention, rather than the output."""
    rotary_base: float = Field(default=10_000.0, gt=1, allow_inf_nan=False)
    """Positions turn the i-th of n pairs of coordinates of a head by rotary_base^(-i / n) radians each."""
    rotary_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the coordinates of a head, the first ones, that positions turn."""
    tied: bool = False
    """Whether the matrix that embeds tokens also makes their logits."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each sublayer's output that is dropped while training."""
    context: int = Field(default=256, gt=0, le=16_777_216)
    """Tokens of the longest sequence."""
    vocabulary: int = Field(default=BYTE_VALUES, gt=0, le=67_108_864)
    """Tokens are 0 to vocabulary - 1: 256 for bytes. Left out with data of kind text: what the data say; a larger one,
    such as the next multiple of 64, is allowed."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("python_source", "text")
    sample_kinds = ("text",)
    task_kinds = ("next_token",)
    unseen_in_shapes = ("num_heads", "norm_epsilon", "feed_forward", "parallel_residual", "rotary_base", "rotary_share")
    flowless = "a gpt model predicts the next token"
    moves_tokens = True
    width_of_a_head = 2
    no_compilation = "a gpt turns queries by complex numbers, for which there is no compiled code"
    no_repetition_in_zero_3 = "frees the weights of a gpt's norms, which that still needs"

    @property
    def key_value_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def key_value_width(self) -> int:
        return 2 * self.key_value_heads * self.hidden // self.num_heads

    @property
    def keyed_dropout(self) -> bool:
        return self.dropout > 0

    @property
    def no_mixture(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Returns why experts, two matrices around a GELU in a block of two steps, do not fit; None if they do."""
        for name, value in (
            ("feed_forward", self.feed_forward if self.feed_forward != "gelu" else None),
            ("bias", self.bias or None),
            ("parallel_residual", self.parallel_residual or None),
        ):
            if value is not None:
                written = str(value).lower()
                return f"model.{name} {written} is of dense layers alone; use {name}={_PLAIN[name]}, or leave moe out"
        return None

    @property
    def rotary_width(self) -> int:
        return int(self.rotary_share * (self.hidden // self.num_heads))

    @property
    def token_bytes(self) -> int:
        return 1 if self.vocabulary <= BYTE_VALUES else 4

    @model_validator(mode="after")
    def _heads_divide(self) -> "GPTConfig":
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                f"num_kv_heads: {self.num_kv_heads} does not divide num_heads {self.num_heads}; choose a divisor"
            )
        if self.rotary_width % 2 or not self.rotary_width:
            width = self.hidden // self.num_heads
            fitting = max(2, 2 * (self.rotary_width // 2)) / width
            raise ValueError(
                f"rotary_share: {self.rotary_share:g} of {width} coordinates of a head are {self.rotary_width}, which "
                f"are no pairs; use {fitting:g}"
            )
        return self

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        heads = {"model.num_heads": self.num_heads, "model.num_kv_heads": self.key_value_heads}
        return heads if mixture else {**heads, "model.feed_forward_hidden": self.inner}

    def check_states(self, shape: Shape) -> None:
        """Refuses windows of more tokens than `context`, not counting the predicted one."""
        context = self.tokens(shape)
        if context > self.context:
            raise ValueError(
                f"data.context: {context} exceeds model.context {self.context}, the longest sequence of the network; "
                f"use at most {self.context}"
            )

    def tokens(self, state_shape: Shape) -> int:
        (window,) = state_shape
        return window - 1

    def inputs(self, state_shape: Shape) -> tuple[Input, ...]:
        return (Input((self.tokens(state_shape),), integer=True),) * 2


Config = GPTConfig
