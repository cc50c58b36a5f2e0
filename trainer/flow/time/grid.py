"""The times at which a sampler of few equal steps evaluates the network."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.time.protocol import TimeSampler


class GridConfig(Section):
    """t is one of 0, 1/steps, ..., (steps - 1)/steps, for distillation to a number of steps.

    Attributes:
        steps: number of steps of the sampler, at least 1; with 1 the only time is 0.
    """

    kind: Literal["grid"] = "grid"
    steps: int = Field(default=4, ge=1)


class Grid(TimeSampler):
    """All times of the grid are equally likely.

    Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003, section 2.2 (distillation).

    Args:
        steps: number of times of the grid, at least 1.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See `TimeSampler.sample`."""
        drawn = torch.randint(self.steps, (batch_size,), generator=generator, device=generator.device)
        return to_device(drawn.to(dtype) / self.steps, device)
