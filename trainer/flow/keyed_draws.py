"""What is drawn for examples by their keys, so that it depends on neither ranks nor order."""

from __future__ import annotations

import torch
from torch import Tensor

from moe.seeds import fold_in, normal, uniform

UNIFORM = 1
"""Keeps uniform draws of a number independent of the normal draws of that number."""


def random_keys(num: int, generator: torch.Generator) -> Tensor:
    """Draws a key for each of `num` examples, int64 [num] on the device of the generator."""
    return torch.randint(2**63 - 1, (num,), generator=generator, device=generator.device)


def keyed_normal(x: Tensor, keys: Tensor, number: int) -> Tensor:
    """Draws standard normal values like states [B, *D] by the keys int64 [B] of examples and a number of the draw."""
    own = fold_in(keys.to(x.device), number)[:, None]
    values = torch.arange(x[0].numel(), device=x.device)
    return normal(fold_in(own, values)).reshape(x.shape).to(x.dtype)


def keyed_uniform(keys: Tensor, count: int, number: int) -> Tensor:
    """Draws `count` numbers in [0, 1) for each key int64 [B] and a number of the draw, float32 [B, count]."""
    own = fold_in(fold_in(keys, number), UNIFORM)[:, None]
    return uniform(fold_in(own, torch.arange(count, device=keys.device))).float().clamp(max=1 - 2.0**-24)
