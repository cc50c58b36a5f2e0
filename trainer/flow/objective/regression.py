"""The error between predictions and their targets, as they are or converted into velocities or data."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.error import Config as ErrorConfig
from trainer.flow.objective.error import SquaredConfig
from trainer.flow.objective.error import build as build_error
from trainer.flow.objective.monge_gap import MongeGapConfig
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.protocol import Quantity, Target


class RegressionConfig(Section):
    """The mean error of the prediction."""

    kind: Literal["regression"] = "regression"
    error: ErrorConfig = SquaredConfig()
    """Error of a difference."""
    space: Literal["prediction", "data", "velocity"] = "prediction"
    """The quantity that is compared: the prediction itself, the velocity, or the data point of the pair. A pair with an
    interval has the point at its end in place of the data point; a first-order step leads there from x_t."""
    antithetic: bool = False
    """Average over every point and its mirror, for less variance. The path must have noise of its own, and the network
    is evaluated on twice as many points."""
    monge_gap: MongeGapConfig | None = None
    """Also keep the map of one step from moving points more than it has to."""


class Regression(Objective):
    """The conditional flow-matching loss: mean over D of the error of prediction - target.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, equation 9; in the space of the
    data, Wang et al., "Rectified Diffusion", arXiv 2410.07303, algorithm 1, and for parts of paths section 3.4
    (phased); antithetic pairs, Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, section
    6.1.

    Args:
        target: the quantity that the network predicts.
        config: error, space and antithetic points.
    """

    def __init__(self, target: Target, config: RegressionConfig | None = None) -> None:
        self.target = target
        self.config = config or RegressionConfig()
        self.error = build_error(self.config.error)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """See `Objective.loss`; if a prediction has several fields, the terms are their mean errors."""
        if self.config.antithetic:
            assert sample.mirror is not None, "the rules of composition exclude other paths"
            sample, condition = sample.beside(sample.mirror), condition.beside(condition)
        estimate, truth = self._compared(model(sample.x_t, sample.t, condition), sample)
        errors = self.error(estimate - truth)
        values = errors.unflatten(0, (2, -1)).movedim(0, 1) if self.config.antithetic else errors
        if self.config.space != "prediction" or self.target.num_fields == 1:
            return LossTerms(values, {})
        name = f"mean_{self.config.error.kind}_error"
        fields = errors.detach().chunk(self.target.num_fields, dim=1)
        named = zip(self.target.quantities, fields, strict=True)
        return LossTerms(values, {f"{quantity}_{name}": field.mean() for quantity, field in named})

    def _compared(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        match self.config.space:
            case "prediction":
                return prediction, self.target.make(sample)
            case "data":
                return self._data_of_the_pair(prediction, sample)
            case "velocity":
                return self._quantity(prediction, sample, "velocity"), sample.velocity

    def _data_of_the_pair(self, prediction: Tensor, sample: PathSample) -> tuple[Tensor, Tensor]:
        data = self._quantity(prediction, sample, "data")
        if sample.end is None:
            return data, sample.x_1
        end, noise = sample.end.broadcast(data), self._quantity(prediction, sample, "noise")
        return end.a * noise + end.b * data, end.a * sample.x_0 + end.b * sample.x_1

    def _quantity(self, prediction: Tensor, sample: PathSample, to: Quantity) -> Tensor:
        return self.target.convert(prediction.to(sample.x_t.dtype), sample.x_t, sample.t, to)
