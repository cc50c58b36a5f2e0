"""The real examples that samples are compared with."""

import torch
from torch import Tensor

import trainer.data
from trainer.config import RunConfig

JUDGED = 10_000
"""How many at most."""


def real_examples(config: RunConfig) -> tuple[Tensor, Tensor | None]:
    """Reads the first examples of the training split.

    Args:
        config: the run.

    Returns:
        [M, *shape] and their labels int64 [M], None without classes; M is at most 10,000.
    """
    dataset = trainer.data.build(config.data)
    batch = dataset.get(torch.arange(JUDGED) if dataset.endless else dataset.indices("train")[:JUDGED])
    return batch.x_1, batch.labels
