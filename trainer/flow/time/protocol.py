"""The times at which a batch is trained."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class TimeSampler(Protocol):
    """Draws the time of each example of a batch."""

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draws times.

        Args:
            batch_size: number of times B.
            generator: of the draw, which is made on its device and then moved.
            device: device of the result.
            dtype: a floating type; float32 or wider, also where the network computes in a narrower one.

        Returns:
            [B] times in [0, 1]; 0 is the source, 1 the data.
        """
        ...
