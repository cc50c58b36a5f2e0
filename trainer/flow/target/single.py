"""Networks that predict one quantity."""

from __future__ import annotations

from torch import Tensor

from trainer.flow.path.protocol import Path
from trainer.flow.target.conversion import convert, determines
from trainer.flow.target.protocol import Quantity, Target


class Single(Target):
    """One quantity, which is converted into others by the coefficients of the path.

    Args:
        path: of the states.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def determines(cls, quantity: Quantity, path: Path) -> bool:
        """See `Target.determines`."""
        (source,) = cls.quantities
        return determines(source, quantity, path)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """See `Target.convert`; the predicted quantity itself needs no coefficients."""
        (source,) = self.quantities
        return convert(prediction, x_t, t, self.path, source=source, to=to)
