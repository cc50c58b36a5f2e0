"""A map in one step that is near to the cheapest: the Monge gap as its regulariser."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.objective.transport import Config as PlanConfig
from trainer.flow.objective.transport import ExactConfig, Transport
from trainer.flow.path.protocol import PathSample
from trainer.flow.target import Target


class MongeGapConfig(Section):
    """The Monge gap of the map of one step, as a regulariser."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Weight of the gap beside the error. The gap is in units of |x - y|^2 / 2, a sum over the values of a state, and
    the error is a mean over them: for states of D values, 2 / D puts both on one scale."""
    plan: PlanConfig = ExactConfig()
    """The plan of transport that the map is compared with."""


def one_step(prediction: Tensor, x_0: Tensor, target: Target) -> Tensor:
    """The map of one step, T(x_0) = x_0 + v(x_0, 0): one step of Euler's method over the whole of time.

    The prediction is of a network at `x_0` and time 0, where the target determines the velocity.
    """
    return x_0 + target.convert(prediction.to(x_0.dtype), x_0, torch.zeros_like(x_0.flatten(1)[:, 0]), "velocity")


class Regularised(Objective):
    """A regression plus weight x Monge gap of the map of one step on the source points of the micro batch.

    The gap is E c(x_0, T(x_0)) - W_c(x_0, T(x_0)) with the cost c = |x - y|^2 / 2. It is 0 if the map is the gradient
    of a convex function. The network is called once, on twice as many states: the regression calls it at the points
    alone.

    Source: Uscidda and Cuturi, "The Monge Gap: A Regularizer to Learn All Transport Maps", arXiv 2302.04953,
    definition 1.
    """

    def __init__(self, regression: Objective, target: Target, config: MongeGapConfig) -> None:
        self.regression, self.target, self.weight = regression, target, config.weight
        self.transport = Transport(config.plan)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """The terms are those of the regression, its mean loss and the mean gap."""
        states = torch.cat([sample.x_t, sample.x_0])
        times = torch.cat([sample.t, torch.zeros_like(sample.t)])
        prediction, at_start = model(states, times, condition.beside(condition)).chunk(2)
        regression = self.regression.loss(lambda *_: prediction, sample, condition)
        gap = self.transport.gap(sample.x_0, one_step(at_start, sample.x_0, self.target), condition.label)
        terms = {"prediction_error": regression.mean().detach(), "monge_gap": gap.mean().detach()}
        return LossTerms(regression.per_example + self.weight * gap, regression.terms | terms)


class MongeMapConfig(Section):
    """The distance of the images of a map of one step from the data, plus weight x its Monge gap."""

    kind: Literal["monge_map"] = "monge_map"
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the gap. Both terms have the cost |x - y|^2 / 2; in units of |x - y|^2 the same weight would do."""
    plan: PlanConfig = ExactConfig()
    """The plans of transport in both terms."""


class MongeMap(Objective):
    """Distance of T(x_0) from the data + weight x Monge gap of T, where T(x_0) = x_0 + v(x_0, 0).

    The network is asked at the source points and time 0 alone; the points of the path and their times have no effect.
    Source points and data of a micro batch are compared as two sets, within their labels where there are any: which of
    them form pairs has no effect either. See `Transport` for cost, plans, and micro batches of more than 512 points.

    Source: Uscidda and Cuturi, "The Monge Gap: A Regularizer to Learn All Transport Maps", arXiv 2302.04953.
    """

    def __init__(self, target: Target, config: MongeMapConfig) -> None:
        self.target, self.weight = target, config.weight
        self.transport = Transport(config.plan)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """The terms are the mean fit and the mean gap."""
        prediction = model(sample.x_0, torch.zeros_like(sample.t), condition)
        mapped = one_step(prediction, sample.x_0, self.target)
        fit, gap = self.transport.fit_and_gap(sample.x_0, mapped, sample.x_1, condition.label)
        terms = {"fit": fit.mean().detach(), "monge_gap": gap.mean().detach()}
        return LossTerms(fit + self.weight * gap, terms)
