"""What a data set offers, and what a training step receives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Batch:
    """One micro batch.

    Attributes:
        x_1: data points, float32 [B, C, H, W] images or int64 [B, N + 1] tokens.
        condition: int64 [B] class labels, or None for data without classes.
        ids: int64 [B] which examples of the data set these are.
    """

    x_1: Tensor
    condition: Tensor | None
    ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the same batch with what a network reads on `device`."""
        condition = None if self.condition is None else self.condition.to(device)
        return Batch(x_1=self.x_1.to(device), condition=condition, ids=self.ids)


class Dataset(Protocol):
    """Examples addressed by number, cut once and for all into a training and a held-out part.

    Attributes:
        num_examples: how many examples both splits hold together; ids run from 0 to this, exclusive.
        num_classes: how many classes the labels name; 0 without labels.
        shape: of an example: (C, H, W) of an image, (N + 1,) of a window of text.
    """

    num_examples: int
    num_classes: int
    shape: tuple[int, ...]

    def indices(self, split: Split) -> Tensor:
        """Returns the ids of a split, int64 [N], in a fixed order that no run setting changes."""
        ...

    def get(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the examples [B, *shape] (see `Batch.x_1`) and labels int64 [B] (or None) of the ids int64 [B]."""
        ...
