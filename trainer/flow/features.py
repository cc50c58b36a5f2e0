"""What may be asked of a network that makes features of a state before it predicts, beside the prediction alone."""

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
    """Asks for features that are approximated from those of an earlier state, and for the true ones, [B, N, D] each.

    Attributes:
        x_start: [B, *D] the states at the first times of their segments, on the same paths.
        t_start: [B] those times.
        share: [B] how much of its segment lies behind each time, from 0 to 1.
    """

    x_start: Tensor
    t_start: Tensor
    share: Tensor


Asked = WithFeatures | WithProjection | Onward | Approximation
