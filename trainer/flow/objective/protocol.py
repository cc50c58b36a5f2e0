"""What is minimised."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.path.protocol import PathSample


class LossTerms(NamedTuple):
    """The loss of one micro batch.

    Attributes:
        values: [B, *E] losses, as many of one example as of another; :meth:`mean` is what is minimised.
        terms: named scalars without gradient, for the metrics: what the loss is made of where it is made of several.
    """

    values: Tensor
    terms: dict[str, Tensor]

    @property
    def per_example(self) -> Tensor:
        """[B] the mean loss of each example."""
        return self.values if self.values.ndim == 1 else self.values.flatten(1).mean(1)

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The mean of the micro batch, in one reduction where all weigh the same.

        Args:
            weight: [B] of each example, 1 on average; None: 1.
        """
        return self.values.mean() if weight is None else (self.per_example * weight).mean()


class Model(Protocol):
    """A network that predicts a quantity at a state."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Returns the prediction at states `x_t` [B, *D] and times `t` [B], shaped as `Target` says."""
        ...


class Objective(Protocol):
    """Scores a model on points of the path."""

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """Evaluates the model and compares.

        Args:
            model: the network.
            sample: B points of the path.
            condition: handed to the model as it is.

        Returns:
            The losses of each point. The weights of the pairs are not in it: what a pair weighs depends on the whole
            global batch, which an objective does not see.
        """
        ...
