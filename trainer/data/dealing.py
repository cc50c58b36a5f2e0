"""Which source of a mixture each position of training takes: a pure function, in closed form.

Positions come in blocks of equal length. After every block each source has had its share of all positions so far to
within one: with C_s the sum of the shares of the sources up to s, it has had round(n C_s) - round(n C_{s-1}) of the
first n. The order within a block is shuffled by a key. How many earlier positions a source had therefore takes no
counting, whatever the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from moe.seeds import derive_seed, fold_in

BLOCK = 100
"""Positions of a block, so that shares in whole percents are exact in each; rarer sources have longer blocks."""
RAREST = 1e-4
"""Smallest share that is dealt."""
UNIT = 10**12
"""Of which shares are counted, so that no rounding of floats adds up."""


class Dealing:
    """Deals positions out to sources; `shares` sum to 1, and each is 0 or at least `RAREST`."""

    def __init__(self, shares: Sequence[float], seed: int) -> None:
        self._bounds = [round(UNIT * bound) for bound in accumulate(shares, initial=0.0)]
        self._bounds[-1] = UNIT
        rarest = min(share for share in shares if share > 0)
        self.block = BLOCK * math.ceil(1 / rarest / BLOCK)  # one position at least, so that no count is negative
        self._key = torch.tensor(derive_seed(seed, "sources"))

    def before(self, block: int) -> list[int]:
        """How many positions each source has had before a block, numbered from 0, begins."""
        ends = [(2 * block * self.block * bound + UNIT) // (2 * UNIT) for bound in self._bounds]
        return [end - begin for begin, end in pairwise(ends)]

    def places(self, first: int, end: int) -> tuple[Tensor, Tensor]:
        """Source of each position in [first, end), and how many earlier ones took the same: int64 [end - first]."""
        blocks = range(first // self.block, (end - 1) // self.block + 1)
        sources, places = (torch.cat(parts) for parts in zip(*map(self._dealt, blocks), strict=True))
        offset = blocks.start * self.block
        return sources[first - offset : end - offset], places[first - offset : end - offset]

    def _dealt(self, block: int) -> tuple[Tensor, Tensor]:
        """Source and place of every position of a block."""
        before = torch.tensor(self.before(block))
        counts = torch.tensor(self.before(block + 1)) - before
        in_turn = torch.arange(len(counts)).repeat_interleave(counts)
        sources = in_turn[fold_in(fold_in(self._key, block), torch.arange(self.block)).argsort()]
        places = torch.empty_like(sources)
        firsts = counts.cumsum(0) - counts
        places[sources.argsort(stable=True)] = torch.arange(self.block) + (before - firsts)[in_turn]
        return sources, places
