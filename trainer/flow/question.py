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


Question = WithFeatures | WithProjection | Onward | Approximation
