"""Regression on the target: the error of a prediction, passes of the network, and the objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.monge_map import MongeGapConfig
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.target import Quantity, Target

Error = Callable[[Tensor], Tensor]
"""From differences to errors of the same shape, 0 for a difference of 0."""


class SquaredConfig(Section):
    """The square of the difference; nothing to set."""

    kind: Literal["squared"] = "squared"


class PseudoHuberConfig(Section):
    """sqrt(difference^2 + scale^2) - scale: quadratic far below the scale, the absolute value far above it."""

    kind: Literal["pseudo_huber"] = "pseudo_huber"
    scale: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    """Difference at which the error changes from quadratic to absolute."""


Config = Annotated[SquaredConfig | PseudoHuberConfig, Field(discriminator="kind")]


def build(config: Config) -> Error:
    """The error that `config.kind` names.

    Source: the pseudo-Huber error is that of Charbonnier et al., "Deterministic Edge-Preserving Regularization in
    Computed Imaging", 1997; Wang et al., "Rectified Diffusion", arXiv 2410.07303, train with scale 1e-3.
    """
    match config:
        case SquaredConfig():
            return lambda difference: difference.square()
        case PseudoHuberConfig(scale=scale):
            return lambda difference: (difference.square() + scale**2).sqrt() - scale


Point = tuple[Tensor, Tensor]
"""States [B, *D] and times [B]."""


def at_points(model: Model, condition: Condition, *points: Point) -> tuple[Tensor, ...]:
    """Calls a network once at several points of each of B examples: the prediction [B, *D] at each of the points.

    The points of an example stand next to one another in the batch of the call, so that whoever listens to the network
    meets the examples in their order.
    """
    if len(points) == 1:
        ((x, t),) = points
        return (model(x, t, condition).to(x.dtype),)
    x, t = (torch.stack(values, dim=1).flatten(0, 1) for values in zip(*points, strict=True))
    rows = torch.arange(len(points[0][1]), device=t.device).repeat_interleave(len(points))
    predicted = model(x, t, condition.rows(rows)).to(x.dtype)
    return predicted.unflatten(0, (-1, len(points))).unbind(1)


@contextmanager
def not_learning(model: Model) -> Iterator[None]:
    """While entered, passes of a network leave no gradients and count for nothing: it is in evaluation mode.

    Each module has its own mode set and set back, whatever engine holds the network, so that no collective is called
    and parts that were in evaluation mode before stay in it.
    """
    learning = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    for module in learning:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in learning:
            module.training = True


class RegressionConfig(Section):
    """The mean error of the prediction."""

    kind: Literal["regression"] = "regression"
    error: Config = SquaredConfig()
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
    """

    def __init__(self, target: Target, config: RegressionConfig | None = None) -> None:
        self.target = target
        self.config = config or RegressionConfig()
        self.error = build(self.config.error)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """If a prediction has several fields, the terms are their mean errors."""
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
