"""Shuffled epochs of some examples, one behind the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Stream:
    """Ids by their positions in the sequence of all epochs: none comes a second time before all have come once.

    Args:
        ids: int64 [N] of the examples.
        seed: of the orders of the epochs.
        group: number of these examples among others of the same data set, which have orders of their own; None: there
            are no others.
    """

    def __init__(self, ids: Tensor, seed: int, group: int | None = None) -> None:
        self.members = ids
        self._seed, self._group = seed, [] if group is None else [group]
        self._orders: dict[int, Tensor] = {}

    def ids(self, first: int, end: int) -> Tensor:
        """Returns the ids at positions first to end, int64 [end - first]."""
        length = len(self.members)
        pieces = []
        while first < end:
            epoch, offset = divmod(first, length)
            piece = self._order(epoch)[offset : offset + end - first]
            pieces.append(piece)
            first += len(piece)
        return torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            shuffle = np.random.default_rng([self._seed, epoch, *self._group]).permutation(len(self.members))
            recent = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders = {**recent, epoch: self.members[torch.from_numpy(shuffle)]}
        return self._orders[epoch]
