"""Settings of networks whose head draws where a path goes on, token by token."""

from collections.abc import Mapping
from typing import Literal

from pydantic import PositiveInt, model_validator

from netsim.foundation.settings import Section
from trainer.config.network.dit import DiTConfig
from trainer.config.network.head import HeadConfig
from trainer.config.network.mlp import MLPConfig
from trainer.config.network.protocol import NetworkConfig


class MeanVelocityConfig(Section):
    """How the velocity of the flow, which is the mean of what a head draws, is computed."""

    draws: PositiveInt = 8
    """Draws that the mean is over, from the same noises at every state and time."""
    steps: PositiveInt = 1
    """Euler steps of a draw. A single step goes by the head's velocity at its time 0, which is the mean itself less
    the noise."""


class TransitionNetworkConfig(NetworkConfig):
    """Settings of a network with a head in the place of its last layer."""

    head: HeadConfig = HeadConfig()
    """The network that draws the values of a token from its features."""
    mean_velocity: MeanVelocityConfig = MeanVelocityConfig()
    """Of a sampler that follows a velocity."""

    objective_kinds = ("transition",)
    task_kinds = ("flow",)

    def sample_multiply_adds(
        self,
        state_shape: tuple[int, ...],
        calls: Mapping[str, int],
        *,
        segments: int = 1,
        context_channels: int = 0,
        mixture: int | None = None,
    ) -> int | None:
        """Where no head is called by itself, each call computes a mean."""
        drawn = super().sample_multiply_adds(
            state_shape, calls, segments=segments, context_channels=context_channels, mixture=mixture
        )
        if drawn is None or "head" in calls:
            return drawn
        a_step = self.head_multiply_adds(state_shape, draws=self.mean_velocity.draws)
        return drawn + calls["network"] * self.mean_velocity.steps * a_step


class TransitionDiTConfig(TransitionNetworkConfig, DiTConfig):
    """A diffusion transformer with a head in the place of its last layer; a patch is a token."""

    kind: Literal["transition_dit"] = "transition_dit"  # pyright: ignore[reportIncompatibleVariableOverride]

    tells_attention = False

    @model_validator(mode="after")
    def _has_no_last_layer(self) -> "TransitionDiTConfig":
        if self.predicts_variance:
            raise ValueError("predicts_variance: true is of a last layer, and a head is in its place; use false")
        return self

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        whole = DiTConfig.multiply_adds(self, state_shape, context_channels=context_channels, mixture=mixture)
        return whole - self.tokens(state_shape) * self.hidden * self._patch_values(state_shape)

    def head_multiply_adds(self, state_shape: tuple[int, ...], *, draws: int = 1) -> int:
        patch = self.head.multiply_adds(self._patch_values(state_shape), self.hidden, draws=draws)
        return self.tokens(state_shape) * patch

    def _patch_values(self, state_shape: tuple[int, ...]) -> int:
        return state_shape[0] * self.patch_size**2


class TransitionMLPConfig(TransitionNetworkConfig, MLPConfig):
    """A network for vectors with a head in the place of its last layer; a vector is the only token of an example."""

    kind: Literal["transition_mlp"] = "transition_mlp"  # pyright: ignore[reportIncompatibleVariableOverride]
    head: HeadConfig = HeadConfig(hidden=128)
    """The network that draws a vector from its features."""

    no_division = "share attention heads, which transition_mlp lacks"

    def multiply_adds(
        self, state_shape: tuple[int, ...], *, context_channels: int = 0, mixture: int | None = None
    ) -> int:
        whole = MLPConfig.multiply_adds(self, state_shape, context_channels=context_channels, mixture=mixture)
        return whole - self.hidden * state_shape[0]

    def head_multiply_adds(self, state_shape: tuple[int, ...], *, draws: int = 1) -> int:
        return self.head.multiply_adds(state_shape[0], self.hidden, draws=draws)
