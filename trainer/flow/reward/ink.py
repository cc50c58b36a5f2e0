"""The reward of much, or of little, ink."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.reward.protocol import Reward

SOFTNESS = 0.1
"""Brightness on both sides of mid grey over which a pixel turns from paper to stroke."""


class InkConfig(Section):
    """How much of an image is bright."""

    kind: Literal["ink"] = "ink"
    measure: Literal["brightness", "strokes"] = "brightness"
    """brightness: the mean of all pixels, from 0 for black to 1 for white; strokes: the share of pixels above mid grey,
    with a soft step so that it has a gradient."""
    weight: float = 1.0
    """What the amount is multiplied by; below 0: the darker the better."""


class Ink(Reward):
    """The amount of ink in images whose values are from -1 to 1, times a weight."""

    def __init__(self, config: InkConfig) -> None:
        self._config = config

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        """Differentiable."""
        values = examples.flatten(1)
        pixels = (values + 1) / 2 if self._config.measure == "brightness" else (values / SOFTNESS).sigmoid()
        return self._config.weight * pixels.mean(1)
