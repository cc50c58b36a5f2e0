"""What may be asked of a network that makes features of a state before it predicts, beside the prediction alone."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WithFeatures:
    """Asks for the prediction and the features it was made with, [B, N, D]."""


@dataclass(frozen=True)
class WithProjection:
    """Asks for the prediction and for what the features say of a teacher's, [B, N, F]."""


@dataclass(frozen=True)
class Onward:
    """Asks for a prediction made with features that are approximated from those of an earlier state.

    Attributes:
        features: [B, N, D] of the state at the first time of the segment.
        share: [B] how much of the segment lies behind, from 0 to 1.
    """

    features: Tensor
    share: Tensor


@dataclass(frozen=True)
class Approximation:
    """Asks for features that are approximated from those at the starts of segments, and the true ones, [B, N, D] each.

    Attributes:
        states_at: from times [B] to states [B, *D] on the same paths.
    """

    states_at: Callable[[Tensor], Tensor]


Asked = WithFeatures | WithProjection | Onward | Approximation
