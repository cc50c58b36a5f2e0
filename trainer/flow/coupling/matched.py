"""Source points are permuted or drawn again among the data points of a micro batch, or of a whole step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.coupling.gather import gathered_rows
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal

Scope = Literal["micro_batch", "global_batch"]


class Match(NamedTuple):
    """The source point of each data point.

    Attributes:
        source_index: int64 [B], row of the source point.
        log_weight: float32 [B] logarithms of the weights of the data points; None: all equal.
    """

    source_index: Tensor
    log_weight: Tensor | None = None


class Matching(Protocol):
    """A rule that decides the pairs.

    Attributes:
        weighs: whether its matches have weights.
    """

    weighs: bool

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:
        """Matches source points [B, F] with data points [B, F]; all draws are from the generator."""
        ...


class Matched(Coupling):
    """Data points keep their rows and conditions; a matching assigns source points N(0, I) to them.

    With scope global_batch the pairs solve one problem over all micro batches of all ranks. The ranks gather data and
    source points, the first one solves the problem, and broadcasts the solution. Source points are drawn micro batch by
    micro batch, so that the pairs do not depend on the number of ranks.

    Args:
        matching: decides the pairs.
        scope: the points that are matched together in training: those of a micro batch, or of a whole step.
    """

    normal_source = True

    def __init__(self, matching: Matching, scope: Scope) -> None:
        self.matching = matching
        self.scope: Scope = scope

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; only points of this batch are matched."""
        x_0 = standard_normal(x_1, x_0, generator)
        source, log_weight = self.matching(x_0.detach().flatten(1), x_1.detach().flatten(1), generator)
        return Pairs(x_0[source], x_1, condition, log_weight)

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,
    ) -> list[Pairs]:
        """See `Coupling.draw_step`; with scope global_batch it is collective over `ranks`."""
        if self.scope == "micro_batch":
            return super().draw_step(x_1, conditions, generators=generators, x_0=x_0, ranks=ranks)
        together = zip(x_1, x_0 or [None] * len(x_1), generators, strict=True)
        own = [standard_normal(data, start, generator) for data, start, generator in together]
        every_1, every_0 = gathered_rows(torch.cat(list(x_1)), ranks), gathered_rows(torch.cat(own), ranks)
        source, log_weight = self._agreed(every_0, every_1, generators[0], ranks)
        sizes = [len(data) for data in x_1]
        first = 0 if ranks is None else ranks.rank() * sum(sizes)
        places = torch.arange(first, first + sum(sizes), device=source.device).split(sizes)
        return [
            Pairs(every_0[source[rows]], data, condition, None if log_weight is None else log_weight[rows])
            for rows, data, condition in zip(places, x_1, conditions, strict=True)
        ]

    def _agreed(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator, ranks: dist.ProcessGroup | None) -> Match:
        """The match of the first rank, on every rank; collective."""
        if ranks is None:
            return self.matching(x_0.detach().flatten(1), x_1.detach().flatten(1), generator)
        if ranks.rank() == 0:
            source, log_weight = self.matching(x_0.detach().flatten(1), x_1.detach().flatten(1), generator)
        else:
            source = torch.empty(len(x_1), dtype=torch.int64, device=x_1.device)
            log_weight = torch.empty(len(x_1), device=x_1.device) if self.matching.weighs else None
        dist.broadcast(source, group=ranks, group_src=0)
        if log_weight is not None:
            dist.broadcast(log_weight, group=ranks, group_src=0)
        return Match(source, log_weight)
