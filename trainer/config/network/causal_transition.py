"""Settings of a causal transformer that draws the next state of a chain token by token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.network.head import HeadConfig
from trainer.config.network.mlp import INPUT_WAVES
from trainer.config.network.protocol import NetworkConfig
from trainer.config.network.sizes import Layers, Width, check_heads, check_image, check_vector, squares


class CausalTransitionConfig(NetworkConfig):
    """A transformer over the tokens of the states of a chain: patches of images, or the values of a vector."""

    kind: Literal["causal_transition"] = "causal_transition"
    history: Literal["last", "full"] = "full"
    """full: a token sees all states so far, and no time is told (FHTM); last: the last state, and its time (ARTM)."""
    transitions: PositiveInt = 2
    """Transitions from noise to data."""
    patch_size: PositiveInt = 2
    """Pixels a side of a patch; a patch is a token. Of no effect on vectors, each value of which is a token."""
    hidden: Width = 64
    """Width of a token, a multiple of 4 x num_heads."""
    num_layers: Layers = 3
    """Blocks of attention and feed-forward layer."""
    num_heads: Width = 4
    """Heads of attention."""
    feed_forward_hidden: Width | None = None
    """Width of the feed-forward layers; null: 4 x hidden."""
    head: HeadConfig = HeadConfig()
    """What draws a token from its features."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("digits", "toy", "image_folder", "shards", "webdataset")
    sample_kinds = ("images", "points")
    takes_images = True
    objective_kinds = ("causal_transition",)
    task_kinds = ("flow",)
    no_compilation = "a causal_transition network reads another number of kept tokens at each call that draws"
    no_mixture = (
        "the experts of a causal network would be chosen by routers that see the whole batch, tokens that come later "
        "included"
    )

    @property
    def heads(self) -> int:
        return self.num_heads

    @property
    def inner(self) -> int:
        """Width inside the feed-forward layers."""
        return self.feed_forward_hidden or 4 * self.hidden

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "CausalTransitionConfig":
        check_heads(self.hidden, self.num_heads, 4)
        return self

    @property
    def read_at_once(self) -> int:
        """States that follow the first one in a pass of training: one, or all of them."""
        return 1 if self.history == "last" else self.transitions

    def state_tokens(self, state_shape: tuple[int, ...]) -> int:
        """Tokens of one state."""
        return state_shape[0] if len(state_shape) == 1 else squares(state_shape, self.patch_size)

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        del mixture
        return {"model.num_heads": self.num_heads, "model.feed_forward_hidden": self.inner}

    def check_states(self, shape: tuple[int, ...]) -> None:
        """An image that patches divide, or a vector."""
        if len(shape) == 1:
            check_vector(shape, self.kind)
        else:
            check_image(shape, "model.patch_size", self.patch_size, otherwise="use images or vectors")

    def tokens(self, state_shape: tuple[int, ...]) -> int:
        """Those of all states that are read in one pass."""
        return (1 + self.read_at_once) * self.state_tokens(state_shape)

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        """A pass over all tokens, as in training."""
        del context_channels, mixture
        tokens = self.tokens(state_shape)
        return self._steering() + self._of_tokens(state_shape, tokens, attended=tokens**2)

    def sample_multiply_adds(
        self,
        state_shape: tuple[int, ...],
        calls: Mapping[str, int],
        *,
        segments: int = 1,
        context_channels: int = 0,
        mixture: int | None = None,
    ) -> int:
        """The first call of a past reads a state, each other one a token."""
        del segments, context_channels, mixture
        first = self.state_tokens(state_shape) + 1
        pasts = self.transitions if self.history == "last" else 1
        others = self.transitions * self.state_tokens(state_shape) // pasts - 1
        attended = first**2 + others * first + others * (others + 1) // 2
        read = pasts * self._of_tokens(state_shape, first + others, attended=attended)
        return calls["network"] * self._steering() + read + calls["head"] * self.head_multiply_adds(state_shape)

    def drawn_tokens(self, state_shape: tuple[int, ...]) -> int:
        """Tokens that the head draws in one pass of training."""
        return self.read_at_once * self.state_tokens(state_shape)

    def head_multiply_adds(self, state_shape: tuple[int, ...], *, draws: int = 1) -> int:
        """A call is for one token."""
        return self.head.multiply_adds(self._token_values(state_shape), self.hidden, draws=draws)

    def _steering(self) -> int:
        """Multiply-adds of what steers a call."""
        time = 2 if self.history == "last" else 0
        return (time + 6 * self.num_layers + 2) * self.hidden**2

    def _of_tokens(self, state_shape: tuple[int, ...], tokens: int, *, attended: int) -> int:
        """Multiply-adds of some tokens, and of so many pairs of tokens that attend to one another."""
        embedding = self._token_values(state_shape) * (1 + 2 * INPUT_WAVES)
        in_a_block = 4 * self.hidden + 2 * self.inner
        width = self.hidden
        return tokens * width * (embedding + self.num_layers * in_a_block) + self.num_layers * 2 * attended * width

    def _token_values(self, state_shape: tuple[int, ...]) -> int:
        return 1 if len(state_shape) == 1 else state_shape[0] * self.patch_size**2
