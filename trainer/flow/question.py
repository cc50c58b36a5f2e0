"""Questions to a network that computes features of a state before its prediction, and the past that some add to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class KeysAndValues:
    """Keys and values of the tokens that one block has read; [B, heads, tokens, width] each."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps those of further tokens, and returns keys and values of all tokens so far."""
        if self._kept is not None:
            key, value = torch.cat([self._kept[0], key], dim=2), torch.cat([self._kept[1], value], dim=2)
        self._kept = key, value
        return key, value


class Past:
    """The number of tokens that a network has read, and their keys and values by the number of the block."""

    def __init__(self) -> None:
        self.length = 0
        self.blocks: defaultdict[int, KeysAndValues] = defaultdict(KeysAndValues)


class Question:
    """A request to a network for something besides its prediction, or in its place."""


@dataclass(frozen=True)
class WithFeatures(Question):
    """Requests the prediction and the features that it was computed from, [B, N, D]."""


@dataclass(frozen=True)
class WithProjection(Question):
    """Requests the prediction and the projection of the features onto those of a teacher, [B, N, F]."""


@dataclass(frozen=True)
class WithAttention(Question):
    """Requests the prediction, and the attention [B, A, N] of tokens int64 [A] to all N, of sum 1 over N.

    Numbers are row by row in an image. `blocks`, whose attention is averaged after that of each block's heads; None:
    all.
    """

    tokens: Tensor
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Onward(Question):
    """Requests a prediction from features [B, N, D] at the start of a segment, of which a `share` [B] is elapsed."""

    features: Tensor
    share: Tensor


@dataclass(frozen=True)
class Approximation(Question):
    """Requests features approximated from those at starts of segments, and true ones, [B, N, D], by states at times."""

    states_at: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tokens(Question):
    """Requests the features of the tokens of a state, [B, N, H], which a head is called with."""


@dataclass(frozen=True)
class FromTokens(Question):
    """Requests velocities [B, *D] of a head at states y and times s [B, N], given the features of `Tokens`."""

    tokens: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class HeadVelocities(Question):
    """Requests the velocities of a head at M of its states [M, B, *D] and times [M, B, N], the trunk called once."""

    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextStates(Question):
    """Requests the velocities of a head, [M, K, B, *D], for the tokens of K states after one of a chain.

    Features of a token see those of `following` [K, B, *D] before it alone: one causal pass. The head has states `y`
    [M, K, B, *D] and times `s` [M, K, B, N], in [0, 1].
    """

    following: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextToken(Question):
    """Requests the features [B, H] of the next token, adding tokens [B, N, P], in place of states, to a past."""

    past: Past


@dataclass(frozen=True)
class OfToken(Question):
    """Requests the velocities [B, P] of a head at states [B, P] and times [B], for the features of `NextToken`."""

    features: Tensor


@dataclass(frozen=True)
class Encode(Question):
    """Requests the source points [B, *D] of captions from their noise [B, *D], which stands in place of states."""


@dataclass(frozen=True)
class FromSource(Question):
    """Requests a prediction on the way from source points that are made of captions and noise, in place of states.

    The answer is the prediction at `states` of the source points, the source points, their scaled cosines [B, B] with
    data points, their means, and the logarithms of their variances if these are learned.

    Attributes:
        x_1: [B, *D] the data points.
        states: the states [B, *D] on the way from source points [B, *D].
    """

    x_1: Tensor
    states: Callable[[Tensor], Tensor]
