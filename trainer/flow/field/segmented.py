"""The field of a network whose blocks belong to segments of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.flow import Condition
from trainer.flow.field.guidance import Predict
from trainer.flow.field.network import NetworkField
from trainer.flow.question import Onward, WithFeatures
from trainer.flow.sampler import Field
from trainer.flow.time import share_behind

Network = Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]
"""States [B, *D], times [B], conditions and what is asked beside the prediction, to what :mod:`trainer.flow.question`
says."""
Bind = Callable[[Callable[[Tensor, Tensor, Condition], Tensor]], Predict]
"""Binds condition and guidance to a network."""

SAME_SHARE = 2e-2
"""A state that has gone no further through a segment stands at its start: random samplers leave out t = 0 itself."""


@dataclass(frozen=True)
class SegmentField(NetworkField):
    """A network's prediction, by the blocks of the segment that each time lies in.

    Whoever steps through segments asks for the field :meth:`within` one: its blocks then serve both of its edges.

    Attributes:
        network: the network alone.
        bind: adds condition and guidance to it.
        segments: how many there are.
        approximates: whether, within a segment, the trunk runs for its first state alone, and the residual network
            approximates the features of those that follow.
    """

    network: Network
    bind: Bind
    segments: int
    approximates: bool

    def within(self, segment: int, /) -> Field:
        """See `Field.within`; the field of a segment is made anew each time that it is entered."""
        walk = SegmentWalk(self.network, segment, self.segments, approximates=self.approximates)
        return NetworkField(self.bind(walk), self.target)


class SegmentWalk:
    """A network on its way through one segment, with guidance still outside: what it keeps is of both halves.

    Source: Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3.3 (sampling).

    Args:
        network: the network.
        segment: its number.
        segments: how many there are.
        approximates: see :class:`SegmentField`; a walk that does not begin at the segment's first time, such as one
            back to the source, runs the trunk at each state.
    """

    def __init__(self, network: Network, segment: int, segments: int, *, approximates: bool) -> None:
        self._network, self._segment, self._segments = network, segment, segments
        self._approximates = approximates
        self._start: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction at states [B, *D] and times [B] of the segment."""
        within = replace(condition, segment=self._segment)
        share = share_behind(t, self._segment, self._segments)
        if self._start is not None:
            prediction = self._network(x_t, t, within, Onward(self._start, share))
        elif self._approximates and bool(share.max() < SAME_SHARE):
            prediction, self._start = self._network(x_t, t, within, WithFeatures())
        else:
            self._approximates = False
            prediction = self._network(x_t, t, within)
        assert isinstance(prediction, Tensor)
        return prediction
