"""Layers that hold a weight for each segment of time, and the examples of a batch gathered by segment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.flow.time import segment_of


@dataclass(frozen=True)
class Groups:
    """The examples of a batch by the segment whose weights they meet.

    Attributes:
        segment: of the whole batch, which is then left as it is; None: the examples are in groups, one a segment.
        source: int64 [M C] the example in each of the C places of each group; the places that are left over hold the
            first example.
        place: int64 [B] the place of each example.
        num: M.
    """

    segment: int | None
    source: Tensor | None = None
    place: Tensor | None = None
    num: int = 1

    @classmethod
    def by_time(cls, t: Tensor, segments: int) -> Groups:
        """One group for each segment, as large as the largest needs to be."""
        if segments == 1:
            return cls(0)
        segment = segment_of(t, segments)
        counts = torch.zeros_like(segment[:1]).repeat(segments).scatter_add(0, segment, torch.ones_like(segment))
        places = int(counts.max()) if len(t) > 1 else 1  # a tensor without values cannot be read
        order = segment.argsort(stable=True)
        first = (counts.cumsum(0) - counts)[segment[order]]
        place = torch.empty_like(order)
        place[order] = segment[order] * places + torch.arange(len(t), device=t.device) - first
        source = torch.zeros(segments * places, dtype=torch.int64, device=t.device)
        source[place] = torch.arange(len(t), device=t.device)
        return cls(None, source, place, segments)

    def gather(self, values: Tensor) -> Tensor:
        """From values of the examples [B, *rest] to those of the places [M, C, *rest], or as they are."""
        return values if self.source is None else values[self.source].unflatten(0, (self.num, -1))

    def scatter(self, values: Tensor) -> Tensor:
        """The way back from :meth:`gather`."""
        return values if self.place is None else values.flatten(0, 1)[self.place]


class SegmentLinear(nn.Module):
    """A linear layer for each segment, their weights in one tensor: a mixture of experts whose router is the time."""

    def __init__(self, segments: int, num_read: int, num_written: int) -> None:
        super().__init__()
        self.num_read = num_read
        self.weight = nn.Parameter(torch.empty(segments, num_written, num_read))
        self.bias = nn.Parameter(torch.empty(segments, num_written))

    def forward(self, values: Tensor, segment: int | None) -> Tensor:
        """Applies one segment's layer to [*rest, inputs], or with None each segment's to its group of [M, *rest,
        inputs].
        """
        if segment is not None:
            return functional.linear(values, self.weight[segment], self.bias[segment])
        multiplied = torch.baddbmm(self.bias[:, None], values.flatten(1, -2), self.weight.transpose(1, 2))
        return multiplied.unflatten(1, values.shape[1:-1])
