"""The cosines and sines that stand for time and place in the diffusion transformers of diffusers.

Rounded as there, so that networks trained there compute the same here.

Shape suffixes: B batch, N patches, D width.
"""

import math

import torch
from torch import Tensor

from trainer.config.model.dit import DIFFUSERS_TIME_WAVES

LARGEST_PERIOD = 10_000.0
TIMESTEPS = 1000
"""Of the diffusion, numbered from 0 beside the data. Timestep n is at t = 1 - (n + 1) / 1000, as in a path of kind
diffusion_steps."""


def timestep_waves(t: Tensor) -> Tensor:
    """Cosines and sines of the timesteps 1000 (1 - t) - 1, at least 0, at 128 frequencies from 1 to 1 / 10,000.

    Float32 [B, 256]. In float64 a whole timestep is met exactly, in float32 to 1e-4 of one.
    """
    half = DIFFUSERS_TIME_WAVES // 2
    exponents = -math.log(LARGEST_PERIOD) * torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
    timesteps = (TIMESTEPS * (1 - t) - 1).clamp_min(0).float()
    angles = timesteps[:, None] * exponents.exp()
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
