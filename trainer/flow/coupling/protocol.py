"""Who is paired with whom, and with what weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """A batch of source and data points that travel together.

    Attributes:
        x_0: [B, *D] source points.
        x_1: [B, *D] data points.
        weight: [B] non-negative weights of the pairs; only their ratios matter.
        condition: what the model is told about each pair (class labels int64 [B]), or None.
        source_index: int64 [B], row of the drawn source that pair i uses; None if the coupling does not permute.
        target_index: int64 [B], row of the given data that pair i uses; None if the coupling does not permute.
    """

    x_0: Tensor
    x_1: Tensor
    weight: Tensor
    condition: Tensor | None
    source_index: Tensor | None
    target_index: Tensor | None


class Coupling(Protocol):
    """Draws source points for data points and decides the pairs."""

    def draw(
        self, x_1: Tensor, condition: Tensor | None, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Pairs a batch of data with source points.

        Args:
            x_1: [B, *D] data.
            condition: int64 [B] labels that follow their data points through any permutation, or None.
            x_0: [B, *D] source points to use; None draws them from the coupling's source distribution.
            generator: where every draw comes from. Draws are made on its device and moved to that of `x_1`, so a
                CPU generator gives the same batch on every accelerator.

        Returns:
            The pairs, on the device of `x_1`.

        Raises:
            ValueError: if `x_0` is given in another shape than `x_1`.
        """
        ...
