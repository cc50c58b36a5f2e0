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
    """What every block keeps of the tokens that a network has read.

    Attributes:
        length: tokens that were read.
        blocks: keys and values by the number of the block.
    """

    def __init__(self) -> None:
        self.length = 0
        self.blocks: defaultdict[int, KeysAndValues] = defaultdict(KeysAndValues)


@dataclass(frozen=True)
class WithFeatures:
    """Requests the prediction and the features that it was computed from, [B, N, D]."""


@dataclass(frozen=True)
class WithProjection:
    """Requests the prediction and the projection of the features onto those of a teacher, [B, N, F]."""


@dataclass(frozen=True)
class WithAttention:
    """Requests the prediction, and where some tokens look: their attention to all tokens, [B, A, N] of sum 1 over N.

    Attributes:
        tokens: int64 [A], the numbers of the tokens, from 0; those of an image are its patches, row by row.
        blocks: numbers of the blocks, from 0, whose attention is averaged after that of each block's heads; None: all.
    """

    tokens: Tensor
    blocks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Onward:
    """Requests a prediction from features that are approximated from those of an earlier state.

    Attributes:
        features: [B, N, D] of the state at the first time of the segment.
        share: [B] elapsed share of the segment, from 0 to 1.
    """

    features: Tensor
    share: Tensor


@dataclass(frozen=True)
class Approximation:
    """Requests features that are approximated from those at the starts of segments, and the true ones, [B, N, D] each.

    Attributes:
        states_at: from times [B] to the states [B, *D] of the same paths.
    """

    states_at: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tokens:
    """Requests the features of the tokens of a state, [B, N, H], which a head is called with."""


@dataclass(frozen=True)
class FromTokens:
    """Requests the velocities of a head, [B, *D], for the features that `Tokens` returned; the trunk is not called.

    Attributes:
        tokens: [B, N, H] features.
        y: [B, *D] states of the head, in the shape of a state of the flow.
        s: [B, N] times of the head, in [0, 1], one for each token.
    """

    tokens: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class HeadVelocities:
    """Requests the velocities of a head, [M, B, *D], for several of its states, from one call of the trunk.

    Attributes:
        y: [M, B, *D] states of the head.
        s: [M, B, N] times of the head, in [0, 1], one for each token.
    """

    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextStates:
    """Requests the velocities of a head, [M, K, B, *D], for each token of K states that follow one state of a chain.

    The states themselves are given, and the features of a token see those before it alone: one causal pass.

    Attributes:
        following: [K, B, *D] the states that follow.
        y: [M, K, B, *D] states of the head, M for each token.
        s: [M, K, B, N] their times, in [0, 1].
    """

    following: Tensor
    y: Tensor
    s: Tensor


@dataclass(frozen=True)
class NextToken:
    """Requests the features of the token that comes next, [B, H]; tokens [B, N, P] stand in place of the states.

    Attributes:
        past: what the network has read before these tokens, to which they are added.
    """

    past: Past


@dataclass(frozen=True)
class OfToken:
    """Requests the velocities of a head, [B, P], at states [B, P] and times [B] of a single token of each example.

    Attributes:
        features: [B, H] of the token, as `NextToken` returned them.
    """

    features: Tensor


Question = (
    WithFeatures
    | WithProjection
    | WithAttention
    | Onward
    | Approximation
    | Tokens
    | FromTokens
    | HeadVelocities
    | NextStates
    | NextToken
    | OfToken
)
