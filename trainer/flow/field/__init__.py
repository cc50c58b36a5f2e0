"""Fields that a sampler follows, made of a network: guided, in segments, causal, or by transitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.flow.chain import Chain
from trainer.flow.condition import UNCONDITIONAL, Condition
from trainer.flow.question import FromTokens, NextToken, OfToken, Onward, Past, Tokens, WithFeatures
from trainer.flow.sampler import Field, TokenField
from trainer.flow.target import Quantity, Target
from trainer.flow.time import share_behind


@dataclass(frozen=True)
class NetworkField(Field):
    """A network's prediction, with condition and guidance bound, converted into the quantity that a sampler needs."""

    predict: Predict
    target: Target

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        return self.target.convert(self.predict(x, t), x, t, "velocity")

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        prediction = self.predict(x, t)
        return tuple(self.target.convert(prediction, x, t, quantity) for quantity in quantities)


Predict = Callable[[Tensor, Tensor], Tensor]
"""States [B, *D] and times [B] to predictions, with condition and guidance already bound."""


def guided(
    predict: Callable[[Tensor, Tensor, Condition], Tensor], condition: Condition, nothing: Condition, scale: float
) -> Predict:
    """Binds conditions and guidance to a model: p = p_nothing + scale (p_condition - p_nothing).

    Both come from one pass of twice the batch. A scale of 0 or 1 needs only one of them. Velocity, data, noise and
    score are affine in one another, so that it does not matter which is predicted. Ho and Salimans, 2022, equation 6
    with scale = 1 + w.
    """
    if scale in (0.0, 1.0):
        only = condition if scale else nothing
        return lambda x, t: predict(x, t, only)
    both = condition.beside(nothing)

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        conditional, unconditional = predict(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return prediction


def doubled(
    x: Tensor, t: Tensor, condition: Condition, nothing: Condition, scale: float
) -> tuple[Tensor, Tensor, Condition]:
    """Arguments of one call for guidance: the conditional batch, then the unconditional one where both are needed."""
    if scale in (0.0, 1.0):
        return x, t, condition if scale else nothing
    return torch.cat([x, x]), torch.cat([t, t]), condition.beside(nothing)


Network = Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]
"""States [B, *D], times [B], conditions and perhaps a question of :mod:`trainer.flow.question`, to the answer."""
Bind = Callable[[Callable[[Tensor, Tensor, Condition], Tensor]], Predict]
"""Binds condition and guidance to a network."""

SAME_SHARE = 2e-2
"""Share of a segment within which a state counts as at the segment's start; random samplers leave out t = 0."""


@dataclass(frozen=True)
class SegmentField(NetworkField):
    """A network's prediction, by the blocks of the segment that each time is in.

    The field `within` a segment uses the segment's blocks at both of its edges. If it approximates, the trunk runs for
    the first state of a segment alone, and the residual network approximates the features of those that follow.
    """

    network: Network
    bind: Bind
    segments: int
    approximates: bool

    def within(self, segment: int, /) -> Field:
        """Returns a new field of the segment at each call, since it keeps features of one pass."""
        walk = SegmentWalk(self.network, segment, self.segments, approximates=self.approximates)
        return NetworkField(self.bind(walk), self.target)


class SegmentWalk:
    """One pass of a network through a segment; batches and the features it keeps are already doubled for guidance.

    A pass that does not begin at the segment's first time runs the trunk at each state. Park et al., arXiv 2510.21167,
    3.3.
    """

    def __init__(self, network: Network, segment: int, segments: int, *, approximates: bool) -> None:
        self._network, self._segment, self._segments = network, segment, segments
        self._approximates = approximates
        self._start: Tensor | None = None

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
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


@dataclass(frozen=True)
class CausalField(TokenField):
    """A causal network with condition and guidance bound; the guidance acts on the velocity of the head."""

    network: Callable[..., Tensor]
    condition: Condition
    nothing: Condition
    guidance: float
    chain: Chain

    def next_features(self, tokens: Tensor, t: Tensor, past: Past) -> Tensor:
        return self.network(*doubled(tokens, t, self.condition, self.nothing, self.guidance), NextToken(past))

    def of_token(self, features: Tensor) -> Predict:
        def velocity(y: Tensor, s: Tensor, condition: Condition) -> Tensor:
            return self.network(y, s, condition, OfToken(features))

        return guided(velocity, self.condition, self.nothing, self.guidance)


@dataclass(frozen=True)
class TransitionField(NetworkField):
    """The velocity of the flow, the mean of a head's draws, and the calls that draw: `Tokens` and `FromTokens`."""

    network: Callable[..., Tensor]
    condition: Condition
    nothing: Condition
    guidance: float

    @classmethod
    def bound(
        cls, network: Callable[..., Tensor], target: Target, condition: Condition, nothing: Condition, guidance: float
    ) -> TransitionField:
        predict = guided(network, condition, nothing, guidance)
        return cls(predict, target, network, condition, nothing, guidance)

    def tokens(self, x: Tensor, t: Tensor) -> Tensor:
        """The features of the tokens of `x`; with guidance, those without condition follow those with it."""
        return self.network(*doubled(x, t, self.condition, self.nothing, self.guidance), Tokens())

    def head_velocity(self, y: Tensor, s: Tensor, tokens: Tensor) -> Tensor:
        def velocity(y: Tensor, s: Tensor, condition: Condition) -> Tensor:
            return self.network(y, s[:, 0], condition, FromTokens(tokens, y, s))

        return guided(velocity, UNCONDITIONAL, UNCONDITIONAL, self.guidance)(y, s)
