"""Questions to a network that computes features before its prediction, and the KV cache that some of them extend."""

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
        """Adds the keys and values of further tokens, and returns those of all tokens so far."""
        if self._kept is not None:
            key, value = torch.cat([self._kept[0], key], dim=2), torch.cat([self._kept[1], value], dim=2)
        self._kept = key, value
        return key, value


class Past:
    """A KV cache: the number of tokens that a network has read, and their keys and values by block number."""

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
    """Requests the prediction, and the attention [B, A, N] of tokens int64 [A] to all N tokens, which sums to 1 over N.

    Tokens of an image are numbered row by row. Attention is averaged over the heads of each block, then over `blocks`;
    None: all blocks.
    """

    tokens: Tensor
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Onward(Question):
    """Requests a prediction from the features [B, N, D] of a segment's start, a `share` [B] of the segment later."""

    features: Tensor
    share: Tensor


@dataclass(frozen=True)
class Approximation(Question):
    """Requests approximated and true features [B, N, D]; `states_at` gives the states at the segments' first times."""

    states_at: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tokens(Question):
    """Requests the features [B, N, H] of the tokens of a state, which later calls of the head take."""


@dataclass(frozen=True)
class FromTokens(Question):
    """Requests velocities [B, *D] of a head at states y and times s [B, N], given the features of `Tokens`."""

    tokens: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class HeadVelocities(Question):
    """Requests the head's velocities at M of its states [M, B, *D] and times [M, B, N], from one call of the trunk."""

    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextStates(Question):
    """Requests the head's velocities [M, K, B, *D] for the tokens of the next K states of a chain.

    One causal pass: features of a token depend only on earlier tokens of `following` [K, B, *D]. The head is called at
    its states `y` [M, K, B, *D] and times `s` [M, K, B, N], in [0, 1].
    """

    following: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextToken(Question):
    """Requests the features [B, H] of the next token; the call has tokens [B, N, P] for states, which `past` keeps."""

    past: Past


@dataclass(frozen=True)
class OfToken(Question):
    """Requests the head's velocities [B, P] of a token at states [B, P] and times [B], by its `NextToken` features."""

    features: Tensor


@dataclass(frozen=True)
class Encode(Question):
    """Requests the source points [B, *D] of captions. The call has their noise [B, *D] in place of states."""


@dataclass(frozen=True)
class FromSource(Question):
    """Requests a prediction on paths from the source points of captions. The call has their noise in place of states.

    The answer is the prediction at `states` of the source points, the source points, their scaled cosines [B, B] with
    data points, their means, and the logarithms of their variances if these are learned.

    Attributes:
        x_1: [B, *D] the data points.
        states: maps source points [B, *D] to the states [B, *D] on their paths.
    """

    x_1: Tensor
    states: Callable[[Tensor], Tensor]
