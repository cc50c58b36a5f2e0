"""Least squares between the prediction and the target."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.protocol import Target


class RegressionConfig(BaseModel, extra="forbid", frozen=True):
    """Mean squared error; nothing to set."""

    kind: Literal["regression"] = "regression"


class Regression(Objective):
    """The conditional flow-matching loss: mean over D of (prediction - target)^2.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, equation 9.

    Args:
        target: what the network predicts; None stands for the velocity of the path.
    """

    def __init__(self, target: Target | None = None) -> None:
        self.target = target

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """See `Objective.loss`; the term `mean_squared_error` is the mean."""
        wanted = sample.velocity if self.target is None else self.target.make(sample)
        prediction = model(sample.x_t, sample.t, condition).to(wanted.dtype)
        squared_error = (prediction - wanted).square().flatten(1).mean(1)
        return LossTerms(squared_error, {"mean_squared_error": squared_error.detach().mean()})
