"""How a network reads the first frame of a clip without seeing it whole.

Shape legend: B examples, C channels of a frame, T frames, H rows, W columns.
"""

import math

import torch
from torch import Tensor, nn

from trainer.model.network import Constant, Initial, by_inputs

WIDENED = 4
"""Channels between the two convolutions, for each of a frame."""


class FirstFrameReader(nn.Module):
    """Takes from each frame of a state what two convolutions make of the first one.

    Both ends of a path are shifted by the same, which leaves its velocity alone. The second convolution begins at zero,
    as does the one of fine details, so that a network begins as one without a context.

    Source: FlashI2V, arXiv 2509.25187.
    """

    def __init__(self, channels: int, *, with_details: bool) -> None:
        super().__init__()
        self.channels = channels
        self.widen = nn.Conv2d(channels, WIDENED * channels, 3, padding=1)
        self.narrow = nn.Conv2d(WIDENED * channels, channels, 3, padding=1)
        self.details = nn.Conv2d(channels, channels, 1) if with_details else None

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        if name == "widen.weight":
            return by_inputs(math.prod(shape[1:]))
        return Constant(0.0)

    def shift(self, frame_BCHW: Tensor) -> Tensor:
        """What is taken from each frame, [B, C, H, W]."""
        return self.narrow(nn.functional.silu(self.widen(frame_BCHW.to(self.widen.weight.dtype))))

    def forward(self, x_t_BTCHW: Tensor, context_BCHW: Tensor) -> Tensor:
        """The input [B, T C + C', H, W] of a network, from states whose frames and channels are one axis."""
        frame, fine = context_BCHW[:, : self.channels], context_BCHW[:, self.channels :]
        shift = self.shift(frame).to(x_t_BTCHW.dtype)
        shifted = x_t_BTCHW - shift.repeat(1, x_t_BTCHW.shape[1] // self.channels, 1, 1)
        if self.details is None:
            return shifted
        return torch.cat([shifted, self.details(fine.to(self.details.weight.dtype)).to(shifted.dtype)], dim=1)
