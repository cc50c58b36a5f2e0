"""An image with a hole."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.context.mask import BoxesConfig, MaskConfig, draw_holes
from trainer.flow.context.protocol import Context, Seen
from trainer.flow.space import Space


class InpaintingConfig(Section):
    """The context is the image with some pixels hidden, and the mask of these pixels."""

    kind: Literal["inpainting"] = "inpainting"
    mask: MaskConfig = BoxesConfig()
    """How the hidden pixels are chosen."""


class Inpainting(Context):
    """The image with hidden pixels in grey, encoded, and one channel with the hidden share of each place.

    The loss covers the whole state. In drawn images the known pixels are put back afterwards.

    Source: Dao et al., "Flow Matching in Latent Space", arXiv 2307.08698, section 4.2.

    Args:
        config: how pixels are hidden.
    """

    def __init__(self, config: InpaintingConfig) -> None:
        self._mask = config.mask

    def draw(self, images: Tensor, space: Space, *, generator: torch.Generator) -> Seen:
        """See `Context.draw`; the context has one channel more than a state."""
        num, _, height, width = images.shape
        hole = to_device(draw_holes(self._mask, num, height, width, generator=generator), images.device)
        picture = images.masked_fill(hole, 0)
        known = space.encode(picture, generator=generator)
        rows, columns = known.shape[2:]
        share = functional.adaptive_avg_pool2d(hole.to(known.dtype), (rows, columns))
        return Seen(torch.cat([known, share], dim=1), picture, hole)
