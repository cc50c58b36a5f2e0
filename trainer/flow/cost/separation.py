"""How far the maps of several subjects are from coherent within a subject and apart between subjects.

Shape suffixes: B batch, T maps, H W cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-10
"""What denominators and arguments of logarithms do not fall below."""


def separation_cost(subjects: Sequence[Tensor], *, gather: bool = False) -> Tensor:
    """Scores maps of subjects: 0 where those of one subject agree and those of different subjects do not meet.

    cost = (within + between) / 2. `within` is the mean of the divergence between the maps of a subject, over the
    subjects with several maps; `between` is 1 - the divergence between the mean maps of the subjects. See `divergence`;
    a term that there is nothing to compute from is 0. The order of subjects, and of maps in a subject, is of no effect.

    Source: Bill, Simsar and Hofmann, "Optimal Control Meets Flow Matching: A Principled Route to Multi-Subject
    Fidelity", arXiv 2510.02315, the cost of FOCUS.

    Args:
        subjects: for each subject its maps [B, T, H, W], 0 or more; T >= 1 may differ, the cells may not.
        gather: score whether the subjects meet instead: `between` is the divergence itself.

    Returns:
        [B] costs from 0 to 1, float32 or wider, differentiable in the maps.
    """
    several = [divergence(maps) for maps in subjects if maps.shape[1] > 1]
    apart = []
    if len(subjects) > 1:
        means = torch.stack([maps.mean(1) for maps in subjects], dim=1)
        apart = [divergence(means) if gather else 1 - divergence(means)]
    terms = [sum(several[1:], several[0]) / len(several)] if several else []
    terms += apart
    if not terms:
        raise ValueError("subjects: one map alone has nothing to be compared with; give several subjects, or maps")
    return sum(terms[1:], terms[0]) / 2


def divergence(maps: Tensor) -> Tensor:
    """The Jensen-Shannon divergence between maps, each cubed and scaled to sum 1, over its largest value log T.

    Args:
        maps: [B, T, H, W], 0 or more, T >= 2; of any scale.

    Returns:
        [B] from 0, for maps that are equal up to their scales, to 1, for maps that share no cell.
    """
    values = maps.flatten(2)
    values = values if values.dtype == torch.float64 else values.float()
    # Cubes of small values would be 0 in float32: the largest value of a map is brought to 1 first.
    sharp = (values / values.amax(-1, keepdim=True).clamp_min(LEAST)) ** 3
    shares = sharp / sharp.sum(-1, keepdim=True).clamp_min(LEAST)
    middle = shares.mean(1, keepdim=True)
    ratio = shares.clamp_min(LEAST).log() - middle.clamp_min(LEAST).log()
    return (shares * ratio).sum(-1).mean(1) / math.log(maps.shape[1])
