"""The part of a data set that a mixture of a given size takes of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moe.seeds import derive_seed
from trainer.data.order import keyed_order
from trainer.data.protocol import Batch, Dataset, Split

KEY = derive_seed("revealed")


def counts_of(shares: Sequence[float], size: int) -> list[int]:
    """Whole numbers in the ratio of shares that sum to 1, with the exact sum `size`, by largest remainders."""
    wanted = [share * size for share in shares]
    counts = [int(number + 1e-6) for number in wanted]
    behind = sorted(range(len(shares)), key=lambda place: counts[place] - wanted[place])  # of equals the first
    for place in behind[: size - sum(counts)]:
        counts[place] += 1
    return counts


def first_revealed(dataset: Dataset, num: int) -> Tensor:
    """Ids of the first training examples of a shuffle that nothing changes, int64 [num], so that more contain fewer."""
    if dataset.endless:
        return torch.arange(num)
    places = keyed_order(torch.arange(num), dataset.count("train"), key=KEY)
    return places if dataset.keyed_order else dataset.indices("train")[places]


class Revealed(Dataset):
    """A data set whose training examples are the first of that shuffle; all held-out ones stay."""

    def __init__(self, whole: Dataset, num: int) -> None:
        self._whole, self._train = whole, first_revealed(whole, num)
        self.num_classes, self.shape = whole.num_classes, whole.shape
        self.augment, self.files = whole.augment, whole.files

    def indices(self, split: Split) -> Tensor:
        return self._train if split == "train" else self._whole.indices(split)

    def data_points(self, split: Split) -> Tensor:
        return self._train if split == "train" else self._whole.data_points(split)

    def get(self, indices: Tensor) -> Batch:
        return self._whole.get(indices)

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        return self._whole.augmented(batch, positions, seed=seed)
