"""What it costs to carry points to others, example by example, by plans that are constants to autograd."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from moe.ot import exact, sinkhorn, squared_euclidean
from netsim.foundation.settings import Section

MOST_POINTS = 512
"""Points of one plan at most."""


class ExactConfig(Section):
    """The plan of least cost, computed on the CPU."""

    kind: Literal["exact"] = "exact"


class EntropicConfig(Section):
    """A plan with entropy, computed on the device of the points."""

    kind: Literal["entropic"] = "entropic"
    epsilon: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Strength of the entropy, in units of the mean cost."""
    max_iterations: int = Field(default=1000, ge=1)
    """Sinkhorn iterations after which a plan is used as it is."""


Config = Annotated[ExactConfig | EntropicConfig, Field(discriminator="kind")]


class Fitted(NamedTuple):
    """Costs of a map, [B] each: the distance of the images from the data, and the Monge gap."""

    fit: Tensor
    gap: Tensor


class Transport:
    """Costs of transport within a micro batch, shared out to its examples.

    The cost of a pair is |x - y|^2 / 2, a sum over the values of a state. With the cost |x - y|^2, which `moe.ot` has,
    every figure would be twice as large.

    A micro batch of more than 512 points is cut into equal parts, each with plans of its own. Points of different
    labels are never matched, so that each class has a map of its own.

    Exact plans are computed on the CPU: on a GPU each part of 512 points waits for the device once, whatever is asked
    of it. Entropic plans are computed on the device, which is asked once an iteration whether it has converged. They
    cost more than exact ones, so that a gap comes out too small, below 0 for the best map; without enough iterations it
    comes out too large.
    """

    def __init__(self, config: ExactConfig | EntropicConfig) -> None:
        self.config = config

    def gap(self, x: Tensor, mapped: Tensor, label: Tensor | None = None) -> Tensor:
        """The Monge gap [B]: how much more a map moves its points [B, *D] than a plan to the same images does.

        It is c(x_i, T(x_i)) - B sum_j P_ij c(x_i, T(x_j)) with the plan P between points and images. The mean is 0 or
        more for exact plans, and 0 if and only if no plan costs less than the map does.
        """
        return torch.cat([self._gap(x[rows], mapped[rows], _of(label, rows)) for rows in _parts(len(x))])

    def fit_and_gap(self, x: Tensor, mapped: Tensor, data: Tensor, label: Tensor | None = None) -> Fitted:
        """The distance of images from data, and the Monge gap; `label` is of the rows of all three alike.

        With exact plans the fit is B sum_j P_ij c(T(x_i), y_j), in the mean the squared 2-Wasserstein distance over 2.
        With entropic plans it is that, less half of the same within the images and within the data: it has the gradient
        of the Sinkhorn divergence, and its value but for entropies.
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
        if isinstance(self.config, EntropicConfig):
            costs += [half_squared(mapped, mapped), half_squared(data, data)]
        own, across, *within = self._plans(torch.stack(costs), label)
        fit = (across * costs[1]).sum(1)
        for plan, cost in zip(within, costs[2:], strict=True):
            fit = fit - (plan * cost).sum(1) / 2
        return Fitted(fit, _moved(costs[0], own))

    @torch.no_grad()
    def _plans(self, costs: Tensor, label: Tensor | None) -> Tensor:
        """Plans for costs [P, N, N], each with rows and columns of sum 1."""
        num = costs.shape[-1]
        if label is not None:
            costs = costs.masked_fill(label[:, None] != label, torch.inf)
        match self.config:
            case ExactConfig():
                on_cpu = costs.cpu()
                mass = on_cpu.new_full((num,), 1 / num)
                return num * exact(on_cpu, mass, mass).values.to(costs.device)
            case EntropicConfig(epsilon=epsilon, max_iterations=most):
                scale = costs.masked_fill(costs.isinf(), 0).mean((-2, -1), keepdim=True)
                in_units = costs / scale.clamp_min(torch.finfo(costs.dtype).tiny)
                mass = costs.new_full((num,), 1 / num)
                return num * sinkhorn(in_units, mass, mass, epsilon=epsilon, max_iterations=most).values


def half_squared(x: Tensor, y: Tensor) -> Tensor:
    """The costs |x - y|^2 / 2 of all pairs of points [N, D] and [M, D]: [N, M]."""
    return squared_euclidean(x, y) / 2


def _moved(costs: Tensor, plan: Tensor) -> Tensor:
    """What the map costs each point, less what the plan does."""
    return costs.diagonal() - (plan * costs).sum(1)


def _parts(num: int) -> list[slice]:
    """Rows of so many points in parts of at most 512, which are equal but for one point."""
    count = -(-num // MOST_POINTS)
    edges = [part * num // count for part in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


def _of(label: Tensor | None, rows: slice) -> Tensor | None:
    return None if label is None else label[rows]
