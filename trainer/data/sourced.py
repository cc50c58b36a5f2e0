"""Examples that are reached from those of another data set."""

import torch
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from trainer.data.protocol import Batch, Dataset, Split


class Sourced(Dataset):
    """A data set beside the one, of the same shape, that its source points come from."""

    def __init__(self, data: Dataset, source: Dataset) -> None:
        self.num_classes, self.shape, self.endless = data.num_classes, data.shape, data.endless
        self.keyed_order = data.keyed_order
        self.source, self.augment, self.mix = source, data.augment, data.mix
        self.files = (*data.files, *source.files)
        self._data = data

    def indices(self, split: Split) -> Tensor:
        return self._data.indices(split)

    def count(self, split: Split) -> int:
        return self._data.count(split)

    def data_points(self, split: Split) -> Tensor:
        return self._data.data_points(split)

    def groups(self, split: Split) -> tuple[Tensor, ...]:
        return self._data.groups(split)

    def order(self, split: Split, *, seed: int, epoch: int, global_batch: int) -> Tensor:
        """That of the data."""
        return self._data.order(split, seed=seed, epoch=epoch, global_batch=global_batch)

    def augmented(self, batch: Batch, positions: Tensor, *, seed: int) -> Batch:
        """As those of the data."""
        return self._data.augmented(batch, positions, seed=seed)

    def get(self, indices: Tensor) -> Batch:
        """Without source points, which are dealt to a place and not to an example."""
        return self._data.get(indices)


def source_points(source: Dataset, numbers: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """Starting points of paths, float32 [B, *shape].

    Args:
        numbers: int64 [B], 0 or more, of the paths.
        seed: 0 or more; with it, the number of a path decides where that path begins.
        split: the part of a finite data set that they are from. Endless ones give examples of which no training comes
            as far as the numbers.
    """
    if source.endless:
        keys = fold_in(torch.tensor(derive_seed(seed, "start")), numbers)
        return source.get(2**61 + keys % 2**61).x_1
    return source.get(in_shuffled_epochs(source.indices(split), numbers, seed=derive_seed(seed, "source"))).x_1


def in_shuffled_epochs(ids: Tensor, numbers: Tensor, *, seed: int) -> Tensor:
    """Deals ids out in shuffled epochs, none a second time before all have come once: int64 of the shape of `numbers`,
    which are places in the stream of all epochs.
    """
    epochs, dealt = numbers // len(ids), torch.empty_like(numbers)
    for epoch in epochs.unique().tolist():
        generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", epoch))
        rows = epochs == epoch
        dealt[rows] = ids[torch.randperm(len(ids), generator=generator)[numbers[rows] % len(ids)]]
    return dealt
