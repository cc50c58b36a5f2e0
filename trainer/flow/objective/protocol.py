"""What is minimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.flow.path.protocol import PathSample


@dataclass(frozen=True)
class LossTerms:
    """The loss of one micro batch.

    Attributes:
        per_example: [B] losses, the pair weights included; their plain mean is what is minimised.
        terms: named scalars without gradient, for the logs.
    """

    per_example: Tensor
    terms: dict[str, Tensor]


class Model(Protocol):
    """A network that predicts a quantity at a state."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None, /) -> Tensor:
        """Returns the prediction [B, *D] at states `x_t` [B, *D], times `t` [B] and conditions [B] or None."""
        ...


class Objective(Protocol):
    """Scores a model on points of the path."""

    def loss(self, model: Model, sample: PathSample, condition: Tensor | None, weight: Tensor) -> LossTerms:
        """Evaluates the model and compares.

        Args:
            model: the network.
            sample: B points of the path.
            condition: int64 [B] labels or None, handed to the model as they are.
            weight: [B] non-negative pair weights, not all zero.

        Returns:
            Losses normalised by the mean weight of this micro batch. Over several micro batches or ranks the caller
            averages `per_example.mean()`; if the weights vary, it first multiplies each by weight.mean() over the
            mean weight of the whole global batch, so that every pair counts by its weight alone.
        """
        ...
