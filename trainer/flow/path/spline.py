"""Smooth interpolation of a table of values on [0, 1]."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from moe.host_copies import to_device


class UniformSpline:
    """Cubic polynomials between knots that divide [0, 1] evenly; value and slope are continuous.

    Source: the cubic Hermite form, as in Fritsch and Carlson, "Monotone Piecewise Cubic Interpolation", 1980.

    Args:
        values: [K + 1, F] of F curves at the times k / K.
        slopes: [K + 1, F] their derivatives there.
    """

    def __init__(self, values: Tensor, slopes: Tensor) -> None:
        self.values, self.slopes = values.double(), slopes.double()

    @classmethod
    def monotone(cls, values: Tensor) -> Self:
        """The curves through `values` [K + 1, F] that are monotonic wherever the values are."""
        from scipy.interpolate import PchipInterpolator

        knots = np.linspace(0.0, 1.0, len(values))
        slopes = PchipInterpolator(knots, values.double().numpy()).derivative()(knots)
        return cls(values, torch.from_numpy(slopes))

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluates the curves.

        Args:
            t: [B] times in [0, 1].

        Returns:
            Values and derivatives [B, F] in the type and on the device of `t`, computed in float64.
        """
        values, slopes = to_device(self.values, t.device), to_device(self.slopes, t.device)
        pieces = len(values) - 1
        place = t.double() * pieces
        left = place.floor().clamp(0, pieces - 1).long()
        u = (place - left)[:, None]
        start, end = values[left], values[left + 1]
        start_slope, end_slope = slopes[left] / pieces, slopes[left + 1] / pieces
        value = (1 - u) ** 2 * ((1 + 2 * u) * start + u * start_slope) + u**2 * (
            (3 - 2 * u) * end + (u - 1) * end_slope
        )
        slope = 6 * u * (1 - u) * (end - start) + (1 - u) * (1 - 3 * u) * start_slope + u * (3 * u - 2) * end_slope
        return value.to(t), (pieces * slope).to(t)
