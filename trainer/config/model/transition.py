"""Settings of networks with a head, which draws token by token where a path continues."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from netsim.foundation.settings import Section
from trainer.config.model.dit import DiTConfig
from trainer.config.model.mlp import MLPConfig
from trainer.config.model.protocol import (
    IMAGES,
    Layers,
    NetworkConfig,
    Shape,
    TransformerConfig,
    Width,
    check_image,
    check_vector,
    squares,
)


class HeadConfig(Section):
    """A perceptron that is called for each token with its features from the trunk."""

    hidden: Width = 64
    """Width of the hidden layers."""
    layers: PositiveInt = 2
    """Hidden layers."""


class MeanVelocityConfig(Section):
    """How the velocity of the flow, which is the mean of what a head draws, is computed."""

    draws: PositiveInt = 8
    """Draws of the head that are averaged, from the same noises at every state and time."""
    steps: PositiveInt = 1
    """Euler steps of a draw. A single step goes by the head's velocity at its time 0, which is the mean itself less
    the noise."""


class TransitionNetworkConfig(NetworkConfig):
    """Settings of a network with a head in the place of its last layer."""

    head: HeadConfig = HeadConfig()
    """The network that draws the values of a token from its features."""
    mean_velocity: MeanVelocityConfig = MeanVelocityConfig()
    """How the velocity is computed for a sampler that follows one."""

    objective_kinds = ("transition",)
    task_kinds = ("flow",)


class TransitionDiTConfig(TransitionNetworkConfig, DiTConfig):
    """A diffusion transformer whose last layer is replaced by a head; a patch is a token."""

    kind: Literal["transition_dit"] = "transition_dit"  # pyright: ignore[reportIncompatibleVariableOverride]

    returns_attention = False

    @model_validator(mode="after")
    def _has_no_last_layer(self) -> "TransitionDiTConfig":
        if self.predicts_variance:
            raise ValueError("predicts_variance: true is of a last layer, and a head is in its place; use false")
        return self


class TransitionMLPConfig(TransitionNetworkConfig, MLPConfig):
    """A network for vectors whose last layer is replaced by a head; a vector is the only token of an example."""

    kind: Literal["transition_mlp"] = "transition_mlp"  # pyright: ignore[reportIncompatibleVariableOverride]
    head: HeadConfig = HeadConfig(hidden=128)
    """The network that draws a vector from its features."""


class CausalTransitionConfig(TransformerConfig):
    """A transformer over the tokens of the states of a chain: patches of images, or the values of a vector."""

    kind: Literal["causal_transition"] = "causal_transition"
    history: Literal["last", "full"] = "full"
    """full: a token sees all states so far, but not the time (FHTM); last: the last state, and its time (ARTM)."""
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
    """The network that draws a token from its features."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each block's output that is dropped while training."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the labels that is hidden while training; guidance needs it above 0."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = (*IMAGES, "toy")
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
    def read_at_once(self) -> int:
        """Number of states after the first one that a training pass reads: one, or all."""
        return 1 if self.history == "last" else self.transitions

    def state_tokens(self, state_shape: Shape) -> int:
        return state_shape[0] if len(state_shape) == 1 else squares(state_shape, self.patch_size)

    def shared_widths(self, *, mixture: bool) -> Mapping[str, int]:
        del mixture
        return {"model.num_heads": self.num_heads, "model.feed_forward_hidden": self.inner}

    def check_states(self, shape: Shape) -> None:
        if len(shape) == 1:
            check_vector(shape, self.kind)
        else:
            check_image(shape, "model.patch_size", self.patch_size, otherwise="use images or vectors")

    def tokens(self, state_shape: Shape) -> int:
        """Tokens of all states that are read in one pass."""
        return (1 + self.read_at_once) * self.state_tokens(state_shape)


Config = TransitionDiTConfig | TransitionMLPConfig | CausalTransitionConfig
