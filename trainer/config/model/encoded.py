"""Settings of networks with an encoder, which makes of a caption the state that a path begins at."""

from typing import Literal

from pydantic import Field, PositiveInt

from netsim.foundation.settings import Section
from trainer.config.model.dit import DiTConfig
from trainer.config.model.mlp import MLPConfig
from trainer.config.model.protocol import NetworkConfig, Width


class EncoderConfig(Section):
    """A perceptron from the vector of a caption to a normal distribution over states."""

    hidden: Width = 256
    """Width of the hidden layers."""
    layers: PositiveInt = 2
    """Hidden layers."""
    deviation: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Standard deviation of the values of a state around their means; null: a learned one for each value. With 0 a
    caption always leads to the same image."""


class EncodedNetworkConfig(NetworkConfig):
    """Settings of a network that follows paths from states which it makes of captions, and reads no caption besides."""

    encoder: EncoderConfig = EncoderConfig()
    """The encoder, which maps the vector of a caption to the source point of a path."""

    objective_kinds = ("encoded_source",)
    objective_part = "an encoder"
    task_kinds = ("flow",)
    reads_captions = True


class EncodedDiTConfig(EncodedNetworkConfig, DiTConfig):
    """A diffusion transformer whose paths begin at what an encoder makes of captions."""

    kind: Literal["encoded_dit"] = "encoded_dit"  # pyright: ignore[reportIncompatibleVariableOverride]


class EncodedMLPConfig(EncodedNetworkConfig, MLPConfig):
    """A network for vectors whose paths begin at what an encoder makes of captions."""

    kind: Literal["encoded_mlp"] = "encoded_mlp"  # pyright: ignore[reportIncompatibleVariableOverride]


Config = EncodedDiTConfig | EncodedMLPConfig
