"""Mean and covariance of features that come block by block, on one rank or on many."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.evaluation.fidelity.gaussian import Gaussian

LANES = 8
"""Sums that are kept apart until the end: block b is counted in sum b mod 8. Where the number of ranks divides it, each
sum belongs to one rank, so that every number is added in the same order on 1, 2, 4 and 8 ranks."""


class Moments:
    """Sums of features and of their products, in float64.

    A feature has an entry 1 put behind it, so that one product of matrices counts, sums and multiplies. Ranks take the
    blocks in turn: rank r of W has the blocks r, r + W, r + 2 W, ... Then mean and covariance are the same to the last
    bit on 1, 2, 4 and 8 ranks, and equal up to rounding on others.
    """

    def __init__(self) -> None:
        self._lanes: dict[int, Tensor] = {}

    def add(self, features: Tensor, block: int) -> None:
        """Adds features [B, F] of a block of this number among all of the set, on the device where the sums are."""
        extended = torch.cat([features.double(), features.new_ones(len(features), 1, dtype=torch.float64)], dim=1)
        size = extended.shape[1]
        if block % LANES not in self._lanes:
            self._lanes[block % LANES] = extended.new_zeros(size, size)
        self._lanes[block % LANES].addmm_(extended.T, extended)

    def fit(self, features: int, device: torch.device, group: dist.ProcessGroup | None = None) -> tuple[Gaussian, int]:
        """The Gaussian of all F features, its covariance unbiased, and the number of examples, on every rank;
        collective.
        """
        total = torch.zeros(features + 1, features + 1, dtype=torch.float64, device=device)
        for lane in range(LANES):
            sums = self._lanes.get(lane)
            if group is not None:
                sums = torch.zeros_like(total) if sums is None else sums.clone()
                dist.all_reduce(sums, group=group)
            if sums is not None:
                total += sums
        sums_FF = total.cpu().numpy()
        count = int(sums_FF[-1, -1])
        if count < 2:
            raise ValueError(f"features: a covariance of {count} examples is not defined; give two or more")
        if not np.isfinite(sums_FF).all():
            raise ValueError("features: some are not finite; look at the examples before measuring them")
        mean = sums_FF[-1, :-1] / count
        covariance = (sums_FF[:-1, :-1] - count * np.outer(mean, mean)) / (count - 1)
        return Gaussian(mean, covariance), count
