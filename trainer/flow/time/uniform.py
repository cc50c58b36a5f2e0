"""Uniform times."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.time.protocol import TimeSampler


class UniformConfig(Section):
    """t is uniform on [0, 1); nothing to set."""

    kind: Literal["uniform"] = "uniform"


class Uniform(TimeSampler):
    """t ~ U[0, 1).

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, equation 9.
    """

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """See `TimeSampler.sample`."""
        return to_device(torch.rand(batch_size, generator=generator, device=generator.device, dtype=dtype), device)
