"""Source points that a network makes of captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import BuiltIn, Pairs, standard_normal
from trainer.flow.question import Encode


class Encoded(BuiltIn):
    """Each data point with what the network's encoder makes of its caption; nothing to set.

    What is drawn is the standard normal noise of the source points: training hands it to the network together with the
    captions, so that the encoder gets gradients, and samples begin at what :meth:`encode` makes of it.

    Source: Liu et al., "Flowing from Words to Pixels: A Noise-Free Framework for Cross-Modality Evolution", arXiv
    2412.15213 (CrossFlow).
    """

    kind: Literal["encoded"] = "encoded"
    normal_source: ClassVar[bool] = True
    encodes_captions: ClassVar[bool] = True

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        return Pairs(standard_normal(x_1, x_0, generator), x_1, condition)

    def encode(self, model: Callable[..., Any], noise: Tensor, condition: Condition) -> Tensor:
        """The source points [B, *D] of captions and noise [B, *D], on their device."""
        return model(noise, noise.new_zeros(len(noise)), condition, Encode())
