"""Parts of a data set: that of a mixture of a given size, and fewer training examples of later classes."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.settings import Section
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


class ImbalanceConfig(Section):
    """Fewer training examples of each later class, as classes are outside benchmarks; held-out examples all stay."""

    ratio: float = Field(gt=1, le=1e6)
    """Share of its examples that the first class keeps, all, over that of the last; between them it falls by the same
    factor from class to class."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Of which examples are kept; a larger ratio keeps some of those that a smaller one does."""


Imbalance = Annotated[ImbalanceConfig | None, Field(exclude_if=lambda imbalance: imbalance is None)]
"""None is not written: runs from before there were any keep their identity."""


def check_imbalance(imbalance: ImbalanceConfig | None, num_classes: int) -> None:
    """Refuses, with a ValueError, examples of no classes, or of one."""
    if imbalance is not None and num_classes < 2:
        raise ValueError(
            f"imbalance: is between classes, and these examples have {num_classes}; leave it out, or give labels"
        )


def kept(imbalance: ImbalanceConfig | None, ids: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Those of ids that are kept, in their order; at least one of each class that has any; `labels` are of `ids`."""
    if imbalance is None:
        return ids
    keys = fold_in(torch.tensor(derive_seed("imbalance", imbalance.seed)), ids)
    stays = torch.zeros(len(ids), dtype=torch.bool)
    for number in range(num_classes):
        own = (labels == number).nonzero().flatten()
        num = round(len(own) * imbalance.ratio ** (-number / (num_classes - 1)))
        stays[own[keys[own].argsort()[: max(num, 1)]]] = True
    return ids[stays]
