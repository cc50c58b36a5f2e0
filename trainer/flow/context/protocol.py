"""The context of an image: the part or description of it that a network reads to draw the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.flow.space import Space


@dataclass(frozen=True)
class Seen:
    """The context of a batch of images.

    Attributes:
        context: [B, C', h, w] the input of the network.
        picture: [B, C, H, W] the same as an image for display; known pixels have their own values.
        hole: bool [B, 1, H, W] the pixels to be drawn.
    """

    context: Tensor
    picture: Tensor
    hole: Tensor

    def completed(self, drawn: Tensor) -> Tensor:
        """Images [B, C, H, W] that were drawn, with the known pixels in their places."""
        return torch.where(self.hole.to(drawn.device), drawn, self.picture.to(drawn.device))

    def rows(self, index: Tensor) -> Seen:
        """The contexts at the rows `index`, int64 [N]."""
        return Seen(self.context[index], self.picture[index], self.hole[index])


class Context(Protocol):
    """Makes contexts of images."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        """Draws the context of each image.

        Args:
            images: [B, C, H, W], values in [-1, 1].
            space: of the states, in which a context of pixels is encoded.
            generator: of all draws.
        """
        ...
