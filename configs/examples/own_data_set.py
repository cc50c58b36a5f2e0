"""A data set of your own: points of a Lissajous curve, each labelled with the half of the curve that it is on."""

import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from torch import Tensor

from trainer.data import Batch, Dataset, Split


class Lissajous(Dataset):
    """(sin(p u), sin(q u)) for u in [0, 2 pi), times 2 and with a little noise."""

    class Config(BaseModel, frozen=True):
        """The keys beside `class` in the configuration; networks are planned by `shape` and `num_classes`."""

        frequencies: tuple[PositiveInt, PositiveInt] = (3, 2)
        num_examples: PositiveInt = 20000
        held_out: PositiveInt = 2000
        seed: NonNegativeInt = 0

        @property
        def shape(self) -> tuple[int]:
            """Of an example."""
            return (2,)

        @property
        def num_classes(self) -> int:
            """How many classes the labels name; 0 for data without labels."""
            return 2

    def __init__(self, config: Config) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes
        self.held_out = config.held_out
        generator = torch.Generator().manual_seed(config.seed)
        u = 2 * torch.pi * torch.rand(config.num_examples + config.held_out, generator=generator)
        p, q = config.frequencies
        clean = 2 * torch.stack([(p * u).sin(), (q * u).sin()], dim=1)
        self.points = clean + 0.05 * torch.randn(clean.shape, generator=generator)
        self.labels = (u > torch.pi).long()

    def indices(self, split: Split) -> Tensor:
        """The first examples are held out, the others are trained on."""
        every = torch.arange(len(self.points))
        return every[: self.held_out] if split == "held_out" else every[self.held_out :]

    def get(self, indices: Tensor) -> Batch:
        """Examples by their ids."""
        return Batch(self.points[indices], self.labels[indices], indices)
