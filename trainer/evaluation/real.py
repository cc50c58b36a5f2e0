"""The real examples that samples are compared with."""

import torch
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed
from trainer.config.run import RunConfig
from trainer.flow.space import Space

JUDGED = 10_000
"""Largest number of real examples that samples are compared with."""


def real_examples(config: RunConfig, space: Space) -> tuple[Tensor, Tensor | None]:
    """Reads at most 10,000 first training examples, decoded: [M, *shape], and their labels int64 [M] or None."""
    dataset = trainer.data.build(config.data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "train", JUDGED))
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "shown"))
    return space.shown(batch.x_1, generator=generator), batch.labels
