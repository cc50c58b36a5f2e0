"""Networks that predict one quantity."""

from __future__ import annotations

from torch import Tensor

from trainer.flow.path.protocol import Path
from trainer.flow.target.conversion import convert
from trainer.flow.target.protocol import Quantity, Target


class Single(Target):
    """One quantity, from which the others follow by the coefficients of the path.

    Args:
        path: where the coefficients come from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """See `Target.convert`; the predicted quantity itself asks nothing of the path."""
        (source,) = self.quantities
        if to == source:
            return prediction
        return convert(prediction, x_t, self.path.coefficients(t), source=source, to=to)
