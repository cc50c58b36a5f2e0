"""From a map at the resolution of an image to channels at that of a state."""

import math

from torch import Tensor, nn
from torch.nn import functional

from trainer.model.layer.initial import Constant, Initial, by_inputs


class SpatialRescaler(nn.Conv2d):
    """Halves a map a number of times, each time to the means of two by two, and mixes its channels by a matrix.

    Rombach et al., 2022, appendix D; used by Dao et al., "Flow Matching in Latent Space", 2307.08698, section 4.2.
    """

    def __init__(self, num_read: int, num_written: int, halvings: int) -> None:
        super().__init__(num_read, num_written, 1)
        self.halvings = halvings

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name == "bias" else by_inputs(math.prod(shape[1:]))

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, num_read, H, W] to [B, num_written, H / 2^halvings, W / 2^halvings]."""
        values = input.to(self.weight.dtype)
        for _ in range(self.halvings):
            values = functional.interpolate(values, scale_factor=0.5, mode="bilinear", align_corners=False)
        return super().forward(values)
