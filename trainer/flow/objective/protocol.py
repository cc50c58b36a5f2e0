"""The loss of a batch, and how a model is evaluated for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.path.protocol import PathSample
from trainer.flow.sampler.protocol import Field


class LossTerms(NamedTuple):
    """The loss of one micro batch.

    Attributes:
        values: [B, *E] losses, the same number for each example; training minimises :meth:`mean`.
        terms: named scalars without gradient, for the metrics: the terms of a loss that is a sum of several.
    """

    values: Tensor
    terms: dict[str, Tensor]

    @property
    def per_example(self) -> Tensor:
        """[B] the mean loss of each example."""
        return self.values if self.values.ndim == 1 else self.values.flatten(1).mean(1)

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The mean over the micro batch, in one reduction if there are no weights [B], which are 1 on average."""
        return self.values.mean() if weight is None else (self.per_example * weight).mean()


class Model(Protocol):
    """A network that predicts a quantity at a state."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Returns the prediction at states `x_t` [B, *D] and times `t` [B], in the shape that `Target` defines."""
        ...


class FrozenFlow(Protocol):
    """A trained flow whose weights do not change."""

    def field(self, condition: Condition, guidance: float, device: torch.device) -> Field:
        """The field that a sampler follows to draw examples of a condition.

        Args:
            condition: of the examples.
            guidance: scale of classifier-free guidance, 0 or more.
            device: where it computes.
        """
        ...


class Objective(Protocol):
    """Computes the loss of a model at points of the path.

    Attributes:
        draws: whether it draws noise or times of its own, as functions of `PathSample.keys`.
    """

    draws: bool = False

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """Evaluates the model and returns its losses.

        Args:
            model: the network.
            sample: B points of the path.
            condition: input of the model.

        Returns:
            The losses of each point, without the weights of the pairs, since these are normalised over the global batch
            and an objective has one micro batch.
        """
        ...
