"""What of an image a network is told, to draw the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.flow.space import Space


@dataclass(frozen=True)
class Seen:
    """What is known of a batch of images.

    Attributes:
        context: [B, C', h, w] what the network is told.
        picture: [B, C, H, W] the same for a person; where pixels are known, those.
        hole: bool [B, 1, H, W] pixels that are not known.
    """

    context: Tensor
    picture: Tensor
    hole: Tensor

    def completed(self, drawn: Tensor) -> Tensor:
        """Images [B, C, H, W] that were drawn, with the known pixels in their places."""
        return torch.where(self.hole.to(drawn.device), drawn, self.picture.to(drawn.device))


class Context(Protocol):
    """Turns images into what is known of them."""

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        """Draws what is known of each image.

        Args:
            images: [B, C, H, W], values in [-1, 1].
            space: where the states live; a network reads what it knows of an image in the same space.
            generator: where every draw comes from.
        """
        ...
