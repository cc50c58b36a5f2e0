"""Independent pairs that count the more the closer they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from pydantic import Field, PositiveFloat
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import BuiltIn, Cost, Pairs, gathered_rows, pair_costs, standard_normal


class GibbsWeighted(BuiltIn, allow_inf_nan=True):
    """Weights exp(-cost / epsilon).

    The independent coupling, its pairs weighted by the Gibbs kernel: one evaluation a pair, no plan to find. The
    weights are those of an entropic transport plan, but between marginals that the kernel itself has tilted: a point
    counts by its mean weight over all partners, so that data far from the source fade. As the batch grows this is flow
    matching on that plan. How far the marginals are tilted does not follow from how many pairs count.

    Weights with an automatic epsilon have a mean of 1 over the step, which is one problem for all ranks.

    Source: "Weighted Conditional Flow Matching", arXiv 2507.22270.

    Attributes:
        cost: of a pair: l2, the distance, or sqeuclidean, its square.
        epsilon: in units of the cost; small: straighter paths, but points that lie far from the others lose weight
            (`data_mean_tilt`, `data_variance_tilt` in the metrics) and fewer pairs count (`effective_share`); .inf: all
            count alike. "auto": anew in each step, so that the effective share of its pairs is `share`.
        share: effective share that the automatic epsilon aims at, between 0 and 1; at least two pairs count.
        kappa: factor of the automatic epsilon.
    """

    kind: Literal["gibbs_weighted"] = "gibbs_weighted"
    cost: Cost = "l2"
    epsilon: PositiveFloat | Literal["auto"] = "auto"
    share: float = Field(default=0.5, gt=0.0, lt=1.0)
    kappa: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    normal_source: ClassVar[bool] = True

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        return self.draw_step([x_1], [condition], generators=[generator], x_0=[x_0])[0]

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,
    ) -> list[Pairs]:
        together = zip(x_1, x_0 or [None] * len(x_1), generators, strict=True)
        sources = [standard_normal(data, start, generator) for data, start, generator in together]
        costs = [pair_costs(start, data, self.cost) for start, data in zip(sources, x_1, strict=True)]
        parts = zip(sources, x_1, conditions, self._log_weights(costs, ranks), strict=True)
        return [Pairs(start, data, told, log_weight) for start, data, told, log_weight in parts]

    def _log_weights(self, costs: Sequence[Tensor], ranks: dist.ProcessGroup | None) -> list[Tensor]:
        if self.epsilon != "auto":
            return [cost / -self.epsilon for cost in costs]
        every = gathered_rows(torch.cat(list(costs)), ranks).double()
        epsilon = self.kappa * epsilon_of_share(every, self.share)
        least = every.min()
        log_mean = ((least - every) / epsilon).logsumexp(0) - math.log(len(every))
        return [((least - cost.double()) / epsilon - log_mean).to(cost.dtype) for cost in costs]


_PARTS, _ROUNDS = 16, 5
_FLATTEST, _STEEPEST = math.log(1e-3), math.log(1e9)


def epsilon_of_share(costs: Tensor, share: float) -> Tensor:
    """The epsilon, float64 above 0, at which the weights exp(-cost / epsilon) of costs [N] have an effective share.

    The share is (sum w)^2 / (N sum w^2), which grows with epsilon. Where that is less than two of the pairs, two count,
    or as many as have the same least cost. Near the smallest of numbers where all costs are the same.
    """
    above = costs.double() - costs.min()
    scale = above.std(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
    wanted = max(share, min(1.0, 2 / len(costs)))
    # Bounds of the logarithm of scale / epsilon, in which each round keeps one of its parts.
    bounds = above.new_tensor([_FLATTEST, _STEEPEST])
    parts = torch.linspace(0, 1, _PARTS + 1, dtype=above.dtype, device=above.device)
    for _ in range(_ROUNDS):
        steepness = torch.lerp(bounds[0], bounds[1], parts)
        # The nearest pair weighs 1, so that no sum vanishes.
        weights = torch.outer(-steepness.exp() / scale, above).exp()
        found = weights.sum(1).square() / (len(costs) * weights.square().sum(1))
        last = ((found >= wanted).sum() - 1).clamp(0, _PARTS - 1)
        bounds = steepness.index_select(0, torch.stack([last, last + 1]))
    return scale / bounds.mean().exp()
