"""The first data points of a data set, to be looked at and measured against."""

import torch
from torch import Tensor

from trainer.data.protocol import Dataset, Split


def first_data_points(dataset: Dataset, split: Split, num: int) -> Tensor:
    """Ids of at most `num` examples that stand for a split, int64; raises ValueError if there are none."""
    if split == "train" and (dataset.endless or dataset.keyed_order):
        found = torch.arange(num if dataset.endless else min(num, dataset.count(split)))
    else:
        found = dataset.data_points(split)[:num]
    if len(found) == 0:
        raise ValueError(
            f"data: no {split} example is a data point, all are parts of paths that end before; draw more pairs, "
            "or evaluate with --data-from and the run of the teacher"
        )
    return found
