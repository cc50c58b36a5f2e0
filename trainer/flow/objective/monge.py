"""One-step maps of nearly the least transport cost: costs of plans, the Monge gap, and the objective with it."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from moe.ot import exact, sinkhorn, squared_euclidean
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import BuiltIn, LossTerms, Model, Objective
from trainer.flow.path.protocol import PathSample
from trainer.flow.target import Target

MOST_POINTS = 512
"""Points of one plan at most."""


class Fitted(NamedTuple):
    """Costs of a map, [B] each: the distance of the images from the data, and the Monge gap."""

    fit: Tensor
    gap: Tensor


class Plan(Section):
    """Plans of transport within a micro batch, whose costs |x - y|^2 / 2 are shared out to its examples.

    A micro batch of more than 512 points is cut into equal parts, each with plans of its own; points of different
    labels are never matched, so that each class has a map of its own. Exact plans are computed on the CPU: a GPU waits
    once for each part. Entropic plans are computed on the device, and the host checks once an iteration if they have
    converged. Their transport costs more than that of exact plans, so that the gap is underestimated, below 0 for the
    best map. With too few iterations it is overestimated.
    """

    blurs: ClassVar[bool] = False

    def gap(self, x: Tensor, mapped: Tensor, label: Tensor | None = None) -> Tensor:
        """The Monge gap [B] c(x_i, T(x_i)) - B sum_j P_ij c(x_i, T(x_j)): what a map costs beyond a plan P.

        The mean over exact plans is 0 or more, and 0 if and only if no plan costs less than the map does.
        """
        return torch.cat([self._gap(x[rows], mapped[rows], _of(label, rows)) for rows in _parts(len(x))])

    def fit_and_gap(self, x: Tensor, mapped: Tensor, data: Tensor, label: Tensor | None = None) -> Fitted:
        """The distance of images from data, and the Monge gap; row i of all three has the class label[i].

        With exact plans the fit is B sum_j P_ij c(T(x_i), y_j), in the mean the squared 2-Wasserstein distance over 2.
        With entropic plans half of the same cost within the images and within the data is subtracted. The fit then has
        the gradient of the Sinkhorn divergence.
        """
        parts = [self._fit_and_gap(x[rows], mapped[rows], data[rows], _of(label, rows)) for rows in _parts(len(x))]
        return Fitted(torch.cat([part.fit for part in parts]), torch.cat([part.gap for part in parts]))

    def _gap(self, x: Tensor, mapped: Tensor, label: Tensor | None) -> Tensor:
        costs = half_squared(x.flatten(1), mapped.flatten(1))
        (plan,) = self._plans(costs[None], label)
        return _moved(costs, plan)

    def _fit_and_gap(self, x: Tensor, mapped: Tensor, data: Tensor, label: Tensor | None) -> Fitted:
        x, mapped, data = x.flatten(1), mapped.flatten(1), data.flatten(1)
        costs = [half_squared(x, mapped), half_squared(mapped, data)]
        if self.blurs:
            costs += [half_squared(mapped, mapped), half_squared(data, data)]
        moving, across, *within = self._plans(torch.stack(costs), label)
        fit = (across * costs[1]).sum(1)
        for plan, cost in zip(within, costs[2:], strict=True):
            fit = fit - (plan * cost).sum(1) / 2
        return Fitted(fit, _moved(costs[0], moving))

    @torch.no_grad()
    def _plans(self, costs: Tensor, label: Tensor | None) -> Tensor:
        """Plans for costs [P, N, N], each with rows and columns of sum 1."""
        num = costs.shape[-1]
        if label is not None:
            costs = costs.masked_fill(label[:, None] != label, torch.inf)
        return num * self.plans(costs, costs.new_full((num,), 1 / num))

    @abstractmethod
    def plans(self, costs: Tensor, mass: Tensor) -> Tensor:
        """Plans for costs [P, N, N], whose rows and columns sum to `mass` [N]; infinite costs exclude pairs."""


class Exact(Plan):
    """The plan of least cost, computed on the CPU."""

    kind: Literal["exact"] = "exact"

    def plans(self, costs: Tensor, mass: Tensor) -> Tensor:
        return exact(costs.cpu(), mass.cpu(), mass.cpu()).values.to(costs.device)


class Entropic(Plan):
    """A plan with entropy, computed on the device of the points."""

    kind: Literal["entropic"] = "entropic"
    epsilon: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Strength of the entropy, in units of the mean cost."""
    max_iterations: int = Field(default=1000, ge=1)
    """Sinkhorn iterations after which a plan is used as it is."""
    blurs: ClassVar[bool] = True

    def plans(self, costs: Tensor, mass: Tensor) -> Tensor:
        scale = costs.masked_fill(costs.isinf(), 0).mean((-2, -1), keepdim=True)
        in_units = costs / scale.clamp_min(torch.finfo(costs.dtype).tiny)
        return sinkhorn(in_units, mass, mass, epsilon=self.epsilon, max_iterations=self.max_iterations).values


AnyPlan = Annotated[Exact | Entropic, Field(discriminator="kind")]


def half_squared(x: Tensor, y: Tensor) -> Tensor:
    """The costs |x - y|^2 / 2 of all pairs of points [N, D] and [M, D]: [N, M]."""
    return squared_euclidean(x, y) / 2


def _moved(costs: Tensor, plan: Tensor) -> Tensor:
    return costs.diagonal() - (plan * costs).sum(1)


def _parts(num: int) -> list[slice]:
    """Cuts `num` rows into slices of at most 512, whose lengths differ by at most one."""
    count = -(-num // MOST_POINTS)
    edges = [part * num // count for part in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


def _of(label: Tensor | None, rows: slice) -> Tensor | None:
    return None if label is None else label[rows]


class MongeGap(Section):
    """The Monge gap of the map of one step, as a regulariser."""

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Weight of the gap beside the error. The gap is in units of |x - y|^2 / 2, a sum over the values of a state, and
    the error is a mean over them: for states of D values, 2 / D puts both on one scale."""
    plan: AnyPlan = Exact()
    """The plan of transport that the map is compared with."""


def one_step(prediction: Tensor, x_0: Tensor, target: Target) -> Tensor:
    """The map of one step, T(x_0) = x_0 + v(x_0, 0), from a prediction at `x_0` and time 0."""
    return x_0 + target.convert(prediction.to(x_0.dtype), x_0, torch.zeros_like(x_0.flatten(1)[:, 0]), "velocity")


class Regularised(Objective):
    """A regression plus weight x Monge gap of the map of one step on the source points of the micro batch.

    The network is called once, on twice as many states. The gap of the gradient of a convex function is 0: arXiv
    2302.04953.
    """

    def __init__(self, regression: Objective, target: Target, config: MongeGap) -> None:
        self.regression, self.target, self.config = regression, target, config

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        states = torch.cat([sample.x_t, sample.x_0])
        times = torch.cat([sample.t, torch.zeros_like(sample.t)])
        prediction, at_start = model(states, times, condition.beside(condition)).chunk(2)
        regression = self.regression.loss(lambda *_: prediction, sample, condition)
        gap = self.config.plan.gap(sample.x_0, one_step(at_start, sample.x_0, self.target), condition.label)
        terms = {"prediction_error": regression.mean().detach(), "monge_gap": gap.mean().detach()}
        return LossTerms(regression.per_example + self.config.weight * gap, regression.terms | terms)


class MongeMap(BuiltIn):
    """The distance of the images of a map of one step from the data, plus weight x its Monge gap.

    The map is T(x_0) = x_0 + v(x_0, 0): the network is evaluated at time 0 alone, and the points of the path have no
    effect. Source points and data of a micro batch are two sets, within their labels, whatever the pairs. `Plan` has
    the cost. Uscidda and Cuturi, "The Monge Gap", arXiv 2302.04953.
    """

    kind: Literal["monge_map"] = "monge_map"
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the gap. Both terms have the cost |x - y|^2 / 2; in units of |x - y|^2 the same weight would do."""
    plan: AnyPlan = Exact()
    """The plans of transport in both terms."""

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        prediction = model(sample.x_0, torch.zeros_like(sample.t), condition)
        mapped = one_step(prediction, sample.x_0, self._inputs.target)
        fit, gap = self.plan.fit_and_gap(sample.x_0, mapped, sample.x_1, condition.label)
        terms = {"fit": fit.mean().detach(), "monge_gap": gap.mean().detach()}
        return LossTerms(fit + self.weight * gap, terms)
