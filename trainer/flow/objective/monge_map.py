"""A map of one step from the source to the data that moves points as little as it can."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.monge_gap import one_step
from trainer.flow.objective.protocol import LossTerms, Model, Objective
from trainer.flow.objective.transport import Config as PlanConfig
from trainer.flow.objective.transport import ExactConfig, Transport
from trainer.flow.path.protocol import PathSample
from trainer.flow.target.protocol import Target


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

    Args:
        target: the quantity that the network predicts.
        config: weight and plans.
    """

    def __init__(self, target: Target, config: MongeMapConfig) -> None:
        self.target, self.weight = target, config.weight
        self.transport = Transport(config.plan)

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """See `Objective.loss`; the terms are the mean fit and the mean gap."""
        prediction = model(sample.x_0, torch.zeros_like(sample.t), condition)
        mapped = one_step(prediction, sample.x_0, self.target)
        fit, gap = self.transport.fit_and_gap(sample.x_0, mapped, sample.x_1, condition.label)
        terms = {"fit": fit.mean().detach(), "monge_gap": gap.mean().detach()}
        return LossTerms(fit + self.weight * gap, terms)
