"""Velocity, data, noise and score of one state, each from any other."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from trainer.flow.path.protocol import Coefficients
from trainer.flow.target.protocol import Quantity

SMALLEST_DIVISOR = 1e-3


def convert(value: Tensor, x_t: Tensor, coefficients: Coefficients, *, source: Quantity, to: Quantity) -> Tensor:
    """Translates a quantity known at x_t = a x_0 + b x_1 into another.

    Two linear equations, the path and the definition of the known quantity, give estimates of x_1 ("data") and x_0
    ("noise"), from which velocity = da x_0 + db x_1 and score = -x_0 / a follow. Divisions by a (at t = 1) and b (at
    t = 0) use at least 1e-3 in their place: finite there, and exact wherever both coefficients are larger.

    Args:
        value: [B, *D] the known quantity.
        x_t: [B, *D] the state it belongs to.
        coefficients: of the path at the B times.
        source: what `value` is.
        to: what is wanted.

    Returns:
        [B, *D] the wanted quantity.

    Raises:
        ValueError: if the path adds noise of its own, or a name is unknown.
    """
    for field, name in (("source", source), ("to", to)):
        if name not in get_args(Quantity):
            raise ValueError(f"{field}: no quantity is called {name!r}; use one of {', '.join(get_args(Quantity))}")
    if source == to:
        return value
    if bool(torch.any(coefficients.g != 0)):
        raise ValueError("path: conversions need a path without noise of its own (g = 0); predict each part instead")
    c = coefficients.broadcast(x_t)
    data, noise = _ends(value, x_t, c, source)
    match to:
        case "velocity":
            return c.da * noise + c.db * data
        case "data":
            return data
        case "noise":
            return noise
        case "score":
            return -noise / _away_from_zero(c.a)


def _ends(value: Tensor, x_t: Tensor, c: Coefficients, source: Quantity) -> tuple[Tensor, Tensor]:
    match source:
        case "velocity":
            determinant = c.a * c.db - c.da * c.b
            return (c.a * value - c.da * x_t) / determinant, (c.db * x_t - c.b * value) / determinant
        case "data":
            return value, (x_t - c.b * value) / _away_from_zero(c.a)
        case "noise":
            return (x_t - c.a * value) / _away_from_zero(c.b), value
        case "score":
            return (x_t + c.a**2 * value) / _away_from_zero(c.b), -c.a * value


def _away_from_zero(divisor: Tensor) -> Tensor:
    floor = torch.where(divisor < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR)
    return torch.where(divisor.abs() < SMALLEST_DIVISOR, floor, divisor)
