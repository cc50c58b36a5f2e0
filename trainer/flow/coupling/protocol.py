"""Couplings, which pair source and data points: the protocol, shared functions, and couplings that match nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from pydantic import Field, PositiveFloat
from torch import Tensor

from moe.host_copies import to_device
from moe.ot.costs import euclidean, squared_euclidean
from moe.seeds import fold_in, normal
from netsim.foundation.settings import Section
from trainer.flow.condition import UNCONDITIONAL, Condition

Cost = Literal["l2", "sqeuclidean"]
"""The distance between two points, or its square."""


class Pairs(NamedTuple):
    """A batch of pairs of a source point and a data point.

    Attributes:
        x_0: [B, *D] source points.
        x_1: [B, *D] data points.
        condition: conditioning of each pair.
        log_weight: [B] logarithms of the weights of the pairs, of which only the differences matter; None: all equal.
        interval: [B, 2] times at which the path of each pair is at x_0 and at x_1; None: 0 and 1.
    """

    x_0: Tensor
    x_1: Tensor
    condition: Condition = UNCONDITIONAL
    log_weight: Tensor | None = None
    interval: Tensor | None = None


class Coupling(Protocol):
    """Draws source points for data points and decides which of them form pairs.

    Attributes:
        normal_source: whether it draws one standard normal point for each data point. The points may then be drawn
            while the data are read, and given as `x_0`.
    """

    normal_source: ClassVar[bool] = False

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Pairs a batch of data with source points, on the device of the data.

        Args:
            x_1: [B, *D] data.
            condition: conditioning of the data points; in the pairs it has the order of its data points.
            x_0: [B, *D] source points to use, a ValueError if of another shape than `x_1`; None: drawn from the source.
            generator: of all draws. These are made on its device and moved to that of `x_1`, so that a CPU generator
                gives the same batch on every accelerator.
        """
        ...

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Pairs]:
        """Pairs all micro batches of a rank's step, each separately unless a coupling overrides this.

        Args:
            x_1: [B, *D] data of each micro batch, as many on every rank.
            conditions: conditioning of each micro batch.
            generators: of each, as in `draw`.
            x_0: [B, *D] source points of each to use; None: they are drawn.
            ranks: the ranks with different data of the same step; a coupling that pairs points of several ranks is
                collective over them. None: there is no other rank.
        """
        together = zip(x_1, conditions, x_0 or [None] * len(x_1), generators, strict=True)
        return [
            self.draw(data, condition, x_0=source, generator=generator)
            for data, condition, source, generator in together
        ]

    def start(self, shape: Sequence[int], condition: Condition, keys: Tensor) -> Tensor:  # noqa: ARG002
        """Draws source points for samples: standard normal unless a coupling overrides this.

        Args:
            shape: of a state, *D.
            condition: conditioning of each sample.
            keys: int64 [B] a key of each, on the CPU; a source point depends on its key and condition alone.

        Returns:
            float32 [B, *D] on the CPU.
        """
        return keyed_normals(shape, keys)


def keyed_normals(shape: Sequence[int], keys: Tensor) -> Tensor:
    """Standard normal draws float32 [B, *shape], each a function of its key int64 [B]."""
    values = torch.arange(math.prod(shape), device=keys.device)
    return normal(fold_in(keys[:, None], values)).float().reshape(len(keys), *shape)


class BuiltIn(Section):
    """A coupling that is its settings."""

    normal_source: ClassVar[bool] = False
    labels_in_state: ClassVar[bool] = False
    """Whether the class is part of the state, so that the network reads none."""
    encodes_captions: ClassVar[bool] = False
    """Whether the network makes source points of captions; it then reads no class but the one for any caption."""

    def state_shape(self, example: Sequence[int], num_classes: int) -> tuple[int, ...]:  # noqa: ARG002
        """Shape of a state whose data points have the shape of `example`."""
        return tuple(example)

    draw_step = Coupling.draw_step
    start = Coupling.start

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        return Pairs(self.sources(x_1, x_0, generator), x_1, condition)

    def sources(self, x_1: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The source points [B, *D] of the rows of `x_1`, drawn or as they are given."""
        return standard_normal(x_1, x_0, generator)


class Independent(BuiltIn):
    """Source and data are drawn independently; nothing to set.

    The source is N(0, I), and all weights are equal. Lipman et al., arXiv 2210.02747, section 4.
    """

    kind: Literal["independent"] = "independent"
    normal_source: ClassVar[bool] = True


class Paired(BuiltIn):
    """The pairs that the data set holds; nothing to set.

    A teacher made the data of a row from its source point. Liu et al., arXiv 2209.03003, section 2.1 (rectified
    coupling).
    """

    kind: Literal["paired"] = "paired"

    def sources(self, x_1: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
        if x_0 is None:
            raise ValueError("x_0: there is none to pair with; use data of kind pairs, or another coupling")
        return super().sources(x_1, x_0, generator)


def standard_normal(x_1: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
    """Returns `x_0`, or normal draws [B, *D] if it is None; a ValueError if its shape is not that of `x_1`."""
    if x_0 is None:
        # By shape and not like x_1: values would be drawn in the order of its memory.
        drawn = torch.randn(x_1.shape, generator=generator, dtype=x_1.dtype, device=generator.device)
        return to_device(drawn, x_1.device)
    if x_0.shape != x_1.shape:
        raise ValueError(f"x_0: shape {tuple(x_0.shape)} is not that of x_1, {tuple(x_1.shape)}; give one per row")
    return x_0


def normal_sources(
    x_1: Sequence[Tensor], x_0: Sequence[Tensor | None] | None, generators: Sequence[torch.Generator]
) -> list[Tensor]:
    """The source points of each micro batch of a step, as `standard_normal` gives them."""
    together = zip(x_1, x_0 or [None] * len(x_1), generators, strict=True)
    return [standard_normal(data, start, generator) for data, start, generator in together]


def pair_costs(x_0: Tensor, x_1: Tensor, cost: Cost) -> Tensor:
    """Costs of the pairs of equal row, float32 [B], for points [B, *D]."""
    # One pass over the points: differences of whole batches would be written to memory and read again.
    distance = torch.cdist(x_0.flatten(1)[:, None].float(), x_1.flatten(1)[:, None].float()).flatten()
    return distance if cost == "l2" else distance.square()


def cost_matrix(x_0: Tensor, x_1: Tensor, cost: Cost) -> Tensor:
    """Costs of all pairs, float32 [N, M], for points [N, F] and [M, F]."""
    return (euclidean if cost == "l2" else squared_euclidean)(x_0.float(), x_1.float())


def gathered(values: Tensor, ranks: dist.ProcessGroup | None = None) -> Tensor:
    """Gathers values [...] of one shape from the ranks, [ranks, ...] by rank (None: all ranks); collective."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(ranks))]
    dist.all_gather(parts, values.contiguous(), group=ranks)
    return torch.stack(parts)


def gathered_rows(rows: Tensor, ranks: dist.ProcessGroup | None) -> Tensor:
    """Gathers rows [B, ...], equally many on each rank, as [ranks B, ...] by rank; collective. None: no other rank."""
    return rows if ranks is None else gathered(rows, ranks).flatten(0, 1)


class GibbsWeighted(BuiltIn, allow_inf_nan=True):
    """Weights exp(-cost / epsilon).

    The independent coupling, each pair weighted by the Gibbs kernel: one evaluation a pair, no plan to find. The
    weights are those of an entropic plan, but its marginals are tilted by the kernel: a point counts by its mean weight
    over all partners. Data far from the source therefore lose weight; the number of pairs that count does not tell how
    much. With an automatic epsilon weights have a mean of 1 over the step of all ranks. arXiv 2507.22270.

    Attributes:
        cost: cost of a pair: l2, the distance, or sqeuclidean, its square.
        epsilon: scale of the weights, in units of the cost; small: straighter paths, but points that lie far from the
            others lose weight (`data_mean_tilt`, `data_variance_tilt` in the metrics) and fewer pairs count
            (`effective_share`); .inf: all pairs count alike. "auto": chosen anew in each step, so that the effective
            share of its pairs is `share`.
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
        sources = normal_sources(x_1, x_0, generators)
        costs = [pair_costs(start, data, self.cost) for start, data in zip(sources, x_1, strict=True)]
        parts = zip(sources, x_1, conditions, self._log_weights(costs, ranks), strict=True)
        return [Pairs(*part) for part in parts]

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

    The share (sum w)^2 / (N sum w^2) grows with epsilon. It is large enough for at least two pairs to count, and all
    pairs of the least cost always do.
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
        shares = weights.sum(1).square() / (len(costs) * weights.square().sum(1))
        last = ((shares >= wanted).sum() - 1).clamp(0, _PARTS - 1)
        bounds = steepness.index_select(0, torch.stack([last, last + 1]))
    return scale / bounds.mean().exp()
