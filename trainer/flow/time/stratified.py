"""Times distributed evenly over segments of the path."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.time.protocol import TimeSampler


class StratifiedConfig(Section):
    """Every micro batch has the same number of times in each of several equal segments.

    Attributes:
        segments: number of segments, at least 1.
    """

    kind: Literal["stratified"] = "stratified"
    segments: int = Field(default=6, ge=1)


class Stratified(TimeSampler):
    """t = (m + u) / M with u ~ U[0, 1): B // M times of each segment m, one more of each of the first B mod M.

    The times are in the order of their segments.

    Source: Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3 (a batch split over the blocks).

    Args:
        segments: M, at least 1.
    """

    def __init__(self, segments: int) -> None:
        self.segments = segments

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See `TimeSampler.sample`."""
        u = to_device(torch.rand(batch_size, generator=generator, device=generator.device, dtype=dtype), device)
        u = u.clamp_max(1 - self.segments * torch.finfo(dtype).eps)  # rounding up would move it to the next segment
        segment = (torch.arange(batch_size, device=device) % self.segments).sort().values
        return (segment + u) / self.segments
