"""Preferences among objectives: how they are drawn, listed and told to a network.

Shape suffixes: B objects, K objectives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from moe.seeds import fold_in, normal, uniform

_PROPOSALS = 12
"""Of which one is accepted but for a probability below 1e-12: each is with a probability of 0.95 or more."""


class Preferences(NamedTuple):
    """Weights float64 [B, K] of the objectives, each row sums to 1, and exponents float64 [B] of the rewards."""

    weights: Tensor
    exponent: Tensor


def dirichlet(keys: Tensor, num: int, concentration: float) -> Tensor:
    """Draws K weights, float64 [B, K], by keys int64 [B]; each row sums to 1."""
    own = fold_in(keys[:, None], torch.arange(num, device=keys.device))
    return _log_gamma_draws(own, concentration).softmax(1)


def thermometer(values: Tensor, bins: int, largest: float = 1.0) -> Tensor:
    """Codes numbers [*] from 0 to `largest` so that a network tells near ones apart: bin after bin fills up.

    Float32 [*, bins] from 0 to 1, falling; their sum is bins * value / largest.
    """
    filled = values[..., None] * (bins / largest) - torch.arange(bins, device=values.device)
    return filled.clamp(0.0, 1.0).float()


def lattice(num: int, divisions: int) -> Tensor:
    """All preferences, float64 [N, K], in multiples of 1 / `divisions`, the first objective's falling."""
    return torch.tensor(list(_shares(num, divisions)), dtype=torch.float64) / divisions


def _shares(num: int, total: int) -> Iterator[tuple[int, ...]]:
    if num == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *others) for others in _shares(num - 1, total - first))


def _log_gamma_draws(keys: Tensor, shape: float) -> Tensor:
    """Logarithms of Gamma(shape) draws, float64, by a fixed number of proposals.

    Source: Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables", 2000, sections 2 and 6: a draw of
    shape + 1 times u^(1 / shape), which also serves shapes below 1.
    """
    proposals = torch.arange(_PROPOSALS, device=keys.device)
    own = fold_in(keys[..., None], proposals)
    excess = shape + 2 / 3
    deviate, chance = normal(fold_in(own, 0)), uniform(fold_in(own, 1)) + 2.0**-54
    root = 1 + deviate / (9 * excess) ** 0.5
    log_cube = 3 * root.clamp(min=torch.finfo(torch.float64).tiny).log()
    bound = 0.5 * deviate.square() + excess * (1 - log_cube.exp() + log_cube)
    accepted = (root > 0) & (chance.log() < bound)
    place = accepted.int().argmax(-1, keepdim=True)
    raised = log_cube.gather(-1, place)[..., 0]
    boost = (uniform(fold_in(keys, _PROPOSALS)) + 2.0**-54).log() / shape
    return raised + boost
