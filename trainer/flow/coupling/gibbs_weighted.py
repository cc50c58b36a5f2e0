"""Independent pairs that count the more the closer they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import Field, PositiveFloat
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.coupling.cost import Cost, pair_costs
from trainer.flow.coupling.gather import gathered_rows
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal


class GibbsWeightedConfig(Section, allow_inf_nan=True):
    """Weights exp(-cost / epsilon).

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


class GibbsWeighted(Coupling):
    """The independent coupling, its pairs weighted by the Gibbs kernel: one evaluation a pair, no plan to find.

    The weights are those of an entropic transport plan, but between marginals that the kernel itself has tilted: a
    point counts by its mean weight over all partners, so that data far from the source fade. As the batch grows this is
    flow matching on that plan. How far the marginals are tilted does not follow from how many pairs count.

    Weights with an automatic epsilon have a mean of 1 over the step, which is one problem for all ranks.

    Source: "Weighted Conditional Flow Matching", arXiv 2507.22270.

    Args:
        cost: of a pair.
        epsilon: in units of the cost, above 0 or infinite; None: by the effective share of each step.
        share: effective share that the automatic epsilon aims at, between 0 and 1.
        kappa: factor of the automatic epsilon, above 0.

    Raises:
        ValueError: a setting out of its range.
    """

    normal_source = True

    def __init__(self, cost: Cost = "l2", epsilon: float | None = None, share: float = 0.5, kappa: float = 1.0) -> None:
        if epsilon is not None and not epsilon > 0:
            raise ValueError(f"epsilon: not positive ({epsilon}); give a number above 0, or None for one by the share")
        if not 0 < share < 1:
            raise ValueError(f"share: not between 0 and 1 ({share}); give a part of the pairs, such as 0.5")
        if not 0 < kappa < math.inf:
            raise ValueError(f"kappa: not positive or not finite ({kappa}); give a factor above 0, such as 1")
        self.cost: Cost = cost
        self.epsilon = epsilon
        self.share = share
        self.kappa = kappa

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; the source is N(0, I), and row i goes with row i."""
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
        """See `Coupling.draw_step`; an automatic epsilon is that of the pairs of all ranks."""
        together = zip(x_1, x_0 or [None] * len(x_1), generators, strict=True)
        sources = [standard_normal(data, start, generator) for data, start, generator in together]
        costs = [pair_costs(start, data, self.cost) for start, data in zip(sources, x_1, strict=True)]
        parts = zip(sources, x_1, conditions, self._log_weights(costs, ranks), strict=True)
        return [Pairs(start, data, told, log_weight) for start, data, told, log_weight in parts]

    def _log_weights(self, costs: Sequence[Tensor], ranks: dist.ProcessGroup | None) -> list[Tensor]:
        if self.epsilon is not None:
            return [cost / -self.epsilon for cost in costs]
        every = gathered_rows(torch.cat(list(costs)), ranks).double()
        epsilon = self.kappa * epsilon_of_share(every, self.share)
        least = every.min()
        log_mean = ((least - every) / epsilon).logsumexp(0) - math.log(len(every))
        return [((least - cost.double()) / epsilon - log_mean).to(cost.dtype) for cost in costs]


_PARTS, _ROUNDS = 16, 5
_FLATTEST, _STEEPEST = math.log(1e-3), math.log(1e9)


def epsilon_of_share(costs: Tensor, share: float) -> Tensor:
    """The epsilon at which the weights exp(-cost / epsilon) have an effective share.

    Args:
        costs: of the pairs, [N].
        share: (sum w)^2 / (N sum w^2), which grows with epsilon, between 0 and 1. Where that is less than two of the
            pairs, two count, or as many as have the same least cost.

    Returns:
        float64 scalar above 0; near the smallest of numbers where all costs are the same.
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
