"""The 1,797 handwritten digits that scikit-learn ships."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.data.augmentation import Augment, AugmentConfig, check_augment
from trainer.data.protocol import Batch, Dataset, Split

NUM_DIGITS = 1797
SPLIT_SEED = 1797


Rotation = Annotated[Literal[0, 90, 180, 270], Field(exclude_if=lambda degrees: degrees == 0)]
"""0 is not written: runs from before digits could be turned keep their identity."""


class DigitsConfig(Section):
    """Real 8x8 grey images of the digits 0 to 9; needs no download.

    Attributes:
        held_out: how many images are kept out of training.
        size: pixels a side; 16 and 32 repeat every pixel 2 and 4 times each way.
        augment: flips and crops of the images that are trained on; null: none.
        rotate: degrees that every image is turned by, held-out ones included, against the clock.
    """

    kind: Literal["digits"] = "digits"
    held_out: int = Field(default=360, ge=1, le=NUM_DIGITS - 1)
    size: Literal[8, 16, 32] = 8
    augment: Augment = None
    rotate: Rotation = 0

    @model_validator(mode="after")
    def _can_be_augmented(self) -> DigitsConfig:
        check_augment(self.augment, self.shape)
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, known before the data set is loaded."""
        return 1, self.size, self.size

    @property
    def num_classes(self) -> int:
        """The digits 0 to 9."""
        return 10

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes 0, 1, ..."""
        return tuple("0123456789")


class Digits(Dataset):
    """The test part of the optical handwritten digits, 17 grey levels scaled to [-1, 1].

    The held-out images are the last of a fixed shuffle, so they are the same for every seed of a run, and a larger
    `held_out` contains a smaller one.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """

    num_classes = 10

    def __init__(
        self, held_out: int, size: Literal[8, 16, 32], augment: AugmentConfig | None = None, rotate: int = 0
    ) -> None:
        from sklearn.datasets import load_digits  # nearly a second to import, needed only here

        pixels, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).to(torch.float32).div(8).sub(1).reshape(NUM_DIGITS, 1, 8, 8)
        images = images.rot90(rotate // 90, (2, 3))
        self._images = images.repeat_interleave(size // 8, dim=2).repeat_interleave(size // 8, dim=3)
        self._labels = torch.from_numpy(labels).to(torch.int64)
        self.shape, self.augment = (1, size, size), augment
        shuffled = torch.randperm(NUM_DIGITS, generator=torch.Generator().manual_seed(SPLIT_SEED))
        self._splits: dict[Split, Tensor] = {"train": shuffled[:-held_out], "held_out": shuffled[-held_out:]}

    def indices(self, split: Split) -> Tensor:
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        return Batch(self._images[indices], self._labels[indices], indices)
