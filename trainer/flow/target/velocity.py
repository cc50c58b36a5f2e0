"""The network predicts the velocity."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from torch import Tensor

from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.target.conversion import convert
from trainer.flow.target.protocol import Quantity, Target


class VelocityConfig(BaseModel, extra="forbid", frozen=True):
    """The network predicts dx/dt; nothing to set."""

    kind: Literal["velocity"] = "velocity"


class Velocity(Target):
    """The velocity of the path, whose conditional mean transports the source to the data.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, theorem 2.

    Args:
        path: where the coefficients of the conversions come from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, sample: PathSample) -> Tensor:
        """See `Target.make`."""
        return sample.velocity

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Quantity) -> Tensor:
        """See `Target.convert`; "velocity" asks nothing of the path."""
        if to == "velocity":
            return prediction
        return convert(prediction, x_t, self.path.coefficients(t), source="velocity", to=to)
