"""What a sampler follows, made of what a network predicts."""

from dataclasses import dataclass

from torch import Tensor

from trainer.flow.field.guidance import Predict
from trainer.flow.sampler import Field
from trainer.flow.target import Quantity, Target


@dataclass(frozen=True)
class NetworkField(Field):
    """A network's prediction, translated into whatever a sampler asks for.

    Attributes:
        predict: the network, with condition and guidance bound.
        target: what it was trained to predict.
    """

    predict: Predict
    target: Target

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """See `Field`."""
        return self.target.convert(self.predict(x, t), x, t, "velocity")

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """See `Field.estimate`."""
        prediction = self.predict(x, t)
        return tuple(self.target.convert(prediction, x, t, quantity) for quantity in quantities)
