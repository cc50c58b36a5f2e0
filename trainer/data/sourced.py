"""Examples that are reached from those of another data set."""

import torch
from torch import Tensor

from moe.random.seed import derive_seed
from trainer.data.protocol import Batch, Dataset, Split


class Sourced(Dataset):
    """A data set beside the one that its source points come from.

    Args:
        data: the examples.
        source: examples of the same shape.
    """

    def __init__(self, data: Dataset, source: Dataset) -> None:
        self.num_classes, self.shape, self.endless = data.num_classes, data.shape, data.endless
        self.source = source
        self._data = data

    def indices(self, split: Split) -> Tensor:
        """See `Dataset.indices`; those of the data."""
        return self._data.indices(split)

    def data_points(self, split: Split) -> Tensor:
        """See `Dataset.data_points`; those of the data."""
        return self._data.data_points(split)

    def get(self, indices: Tensor) -> Batch:
        """See `Dataset.get`; without source points, which are dealt to a place and not to an example."""
        return self._data.get(indices)


def starting_points(source: Dataset, numbers: Tensor, *, seed: int) -> Tensor:
    """Examples that nothing was learned from, for paths to start at.

    Args:
        source: where they are.
        numbers: int64 [B], of the paths.
        seed: 0 or more; with it, the number of a path decides where that path starts.

    Returns:
        float32 [B, *shape]: held-out examples in a shuffled order, from the first again after the last; of an endless
        set, examples of which no training comes as far as the numbers.
    """
    if source.endless:
        ids = torch.tensor([derive_seed(seed, "start", number) % 2**61 for number in numbers.tolist()])
        return source.get(2**61 + ids).x_1
    held_out = source.indices("held_out")
    generator = torch.Generator().manual_seed(derive_seed(seed, "starts"))
    order = torch.randperm(len(held_out), generator=generator)
    return source.get(held_out[order[numbers % len(held_out)]]).x_1
