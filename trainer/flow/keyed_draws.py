"""What is drawn for examples by their keys, so that it depends on neither ranks nor order."""

from __future__ import annotations

import torch
from torch import Tensor

from moe.random.keyed import fold_in, normal, uniform

UNIFORM = 1
"""Keeps uniform draws of a number independent of the normal draws of that number."""


def random_keys(num: int, generator: torch.Generator) -> Tensor:
    """Draws a key for each of some examples.

    Args:
        num: examples.
        generator: of the draws.

    Returns:
        int64 [num], on the device of the generator.
    """
    return torch.randint(2**63 - 1, (num,), generator=generator, device=generator.device)


def keyed_normal(x: Tensor, keys: Tensor, number: int) -> Tensor:
    """Draws standard normal values for each example.

    Args:
        x: [B, *D] states; the draws have their shape, type and device.
        keys: int64 [B] keys of the examples.
        number: which of the draws of an example it is, from 0.

    Returns:
        [B, *D].
    """
    own = fold_in(keys.to(x.device), number)[:, None]
    values = torch.arange(x[0].numel(), device=x.device)
    return normal(fold_in(own, values)).reshape(x.shape).to(x.dtype)


def keyed_uniform(keys: Tensor, count: int, number: int) -> Tensor:
    """Draws numbers in [0, 1) for each example.

    Args:
        keys: int64 [B] keys of the examples.
        count: numbers of an example.
        number: which of the draws of an example it is, from 0.

    Returns:
        float32 [B, count], on the device of the keys.
    """
    own = fold_in(fold_in(keys, number), UNIFORM)[:, None]
    return uniform(fold_in(own, torch.arange(count, device=keys.device))).float().clamp(max=1 - 2.0**-24)
