"""Times at a distance from both ends of the path."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.time.logit_normal import LogitNormalConfig
from trainer.flow.time.protocol import TimeSampler
from trainer.flow.time.uniform import UniformConfig

Within = UniformConfig | LogitNormalConfig


class ClippedConfig(Section):
    """The times of another sampler, scaled from [0, 1] to [margin, 1 - margin].

    Attributes:
        margin: distance from both ends, at least 0 and below 0.5.
        within: the other sampler.
    """

    kind: Literal["clipped"] = "clipped"
    margin: float = Field(default=1e-3, ge=0.0, lt=0.5)
    within: Annotated[Within, Field(discriminator="kind")] = UniformConfig()


class Clipped(TimeSampler):
    """t = margin + (1 - 2 margin) u: uniform times stay uniform, without a peak at the margins.

    Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003, whose code trains on U[1e-3, 1].

    Args:
        margin: distance from both ends, at least 0 and below 0.5.
        within: draws u in [0, 1].
    """

    def __init__(self, margin: float, within: TimeSampler) -> None:
        self.margin = margin
        self.within = within

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See `TimeSampler.sample`."""
        u = self.within.sample(batch_size, generator=generator, device=device, dtype=dtype)
        return self.margin + (1 - 2 * self.margin) * u
