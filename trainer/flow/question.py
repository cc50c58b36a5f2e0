"""Questions to a network that computes features of a state before its prediction."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WithFeatures:
    """Requests the prediction and the features that it was computed from, [B, N, D]."""


@dataclass(frozen=True)
class WithProjection:
    """Requests the prediction and the projection of the features onto those of a teacher, [B, N, F]."""


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


Question = WithFeatures | WithProjection | Onward | Approximation | Tokens | FromTokens | HeadVelocities
