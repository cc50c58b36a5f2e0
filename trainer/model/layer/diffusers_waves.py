"""The cosines and sines that stand for time and place in the diffusion transformers of diffusers.

Rounded as there, so that networks trained there compute the same here.

Shape suffixes: B batch, N patches, D width.
"""

import math

import torch
from torch import Tensor

from trainer.config.network.dit import DIFFUSERS_TIME_WAVES

LARGEST_PERIOD = 10_000.0
LAST_TIMESTEP = 999
"""The timestep at the source, time 0; at the data, time 1, it is 0."""


def timestep_waves(t: Tensor) -> Tensor:
    """Cosines and sines of the timesteps 999 (1 - t) at frequencies from 1 to 1 / 10,000, both included.

    Args:
        t: [B] times in [0, 1]; in float64 a whole timestep is met exactly, in float32 to 1e-4 of one.

    Returns:
        float32 [B, 256].
    """
    half = DIFFUSERS_TIME_WAVES // 2
    exponents = -math.log(LARGEST_PERIOD) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
    angles = (LAST_TIMESTEP * (1 - t)).float()[:, None] * exponents.exp()
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def place_waves(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of the column, then of the row of each patch, float32 [N, D]."""
    frequencies = LARGEST_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))

    def waves(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_column = waves(columns)[None].expand(rows, -1, -1)
    by_row = waves(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], dim=2).flatten(0, 1).float()
