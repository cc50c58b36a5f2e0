"""Times concentrated in one part of the path."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.time.protocol import TimeSampler


class LogitNormalConfig(Section):
    """log(t / (1 - t)) is normal.

    Attributes:
        mean: mean of the logit; above 0 favours times near the data.
        std: standard deviation of the logit, above 0; a small one concentrates the times around sigmoid(mean).
    """

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = Field(default=0.0, allow_inf_nan=False)
    std: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)


class LogitNormal(TimeSampler):
    """t = sigmoid(mean + std z) with z ~ N(0, 1).

    Source: Esser et al., "Scaling Rectified Flow Transformers", arXiv 2403.03206, section 3.1, where time is 1 - t.

    Args:
        mean: mean of the logit.
        std: standard deviation of the logit, above 0.
    """

    def __init__(self, mean: float, std: float) -> None:
        self.mean = mean
        self.std = std

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See `TimeSampler.sample`."""
        z = torch.randn(batch_size, generator=generator, device=generator.device, dtype=dtype)
        return to_device(torch.sigmoid(self.mean + self.std * z), device)
