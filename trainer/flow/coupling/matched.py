"""Source points that are dealt out anew among the data points of a micro batch, or of all of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal

Scope = Literal["micro_batch", "global_batch"]


class Match(NamedTuple):
    """Which source point goes to each data point.

    Attributes:
        source_index: int64 [B], row of the source point.
        log_weight: float32 [B] logarithms of what the data points weigh; None: all alike.
    """

    source_index: Tensor
    log_weight: Tensor | None = None


class Matching(Protocol):
    """Decides the pairs.

    Attributes:
        weighs: whether its matches have weights.
    """

    weighs: bool

    def __call__(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator) -> Match:
        """Matches source points [B, F] with data points [B, F]; draws come from the generator."""
        ...


class Matched(Coupling):
    """Data points stay where they are, with what is known of them; source points N(0, I) come to them.

    With scope global_batch the pairs are those of one problem over all micro batches of all ranks: the ranks gather
    data and source points, the first one solves, and tells the others. Source points are drawn micro batch by micro
    batch, so that the pairs do not depend on how many ranks there are.

    Args:
        matching: decides the pairs.
        scope: whose points are matched together while training.
    """

    def __init__(self, matching: Matching, scope: Scope) -> None:
        self.matching = matching
        self.scope: Scope = scope

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; the points of this batch are matched among themselves."""
        x_0 = standard_normal(x_1, x_0, generator)
        source, log_weight = self.matching(x_0.detach().flatten(1), x_1.detach().flatten(1), generator)
        rows = torch.arange(len(x_1), device=x_1.device)
        return Pairs(x_0[source], x_1, condition, log_weight, source_index=source, target_index=rows)

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,
    ) -> list[Pairs]:
        """See `Coupling.draw_step`; pairs of a whole step have no indices, for no micro batch holds both ends."""
        if self.scope == "micro_batch":
            return super().draw_step(x_1, conditions, generators=generators, x_0=x_0, ranks=ranks)
        together = zip(x_1, x_0 or [None] * len(x_1), generators, strict=True)
        own = [standard_normal(data, start, generator) for data, start, generator in together]
        every_1, every_0 = torch.cat(list(x_1)), torch.cat(own)
        if ranks is not None:
            every_1, every_0 = gathered(every_1, ranks).flatten(0, 1), gathered(every_0, ranks).flatten(0, 1)
        source, log_weight = self._agreed(every_0, every_1, generators[0], ranks)
        sizes = [len(data) for data in x_1]
        first = 0 if ranks is None else ranks.rank() * sum(sizes)
        places = torch.arange(first, first + sum(sizes), device=source.device).split(sizes)
        return [
            Pairs(every_0[source[rows]], data, condition, None if log_weight is None else log_weight[rows])
            for rows, data, condition in zip(places, x_1, conditions, strict=True)
        ]

    def _agreed(self, x_0: Tensor, x_1: Tensor, generator: torch.Generator, ranks: dist.ProcessGroup | None) -> Match:
        """The match that the first rank finds, on every rank."""
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
