"""Velocity, data, noise, score and v of one state, each from the others."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from trainer.flow.path.protocol import Coefficients
from trainer.flow.target.protocol import Quantity

SMALLEST_DIVISOR = 1e-3


def convert(value: Tensor, x_t: Tensor, coefficients: Coefficients, *, source: Quantity, to: Quantity) -> Tensor:
    """Translates one quantity, known at x_t, into another.

    On a path x_t = a x_0 + b x_1, two linear equations, the path and the definition of the known quantity, give
    estimates of x_1 ("data") and x_0 ("noise"), from which velocity = da x_0 + db x_1, score = -x_0 / a and
    v = b x_0 - a x_1 follow. Divisions by a (at t = 1) and b (at t = 0) use at least 1e-3 in their place: finite there,
    and exact wherever both coefficients are larger. A path that adds noise of its own has one unknown more, and of one
    quantity alone only noise and score follow from each other, score = -z / g.

    Args:
        value: [B, *D] the known quantity.
        x_t: [B, *D] the state it belongs to.
        coefficients: of the path at the B times.
        source: what `value` is; v needs a path with a^2 + b^2 = 1.
        to: what is wanted.

    Returns:
        [B, *D] the wanted quantity.

    Raises:
        ValueError: if the path adds noise of its own and leaves the quantity open, or a name is unknown.
    """
    _check_names(source=source, to=to)
    if source == to:
        return value
    c = coefficients.broadcast(x_t)
    if bool(torch.any(coefficients.g != 0)):
        match source, to:
            case "noise", "score":
                return -value / _away_from_zero(c.g)
            case "score", "noise":
                return -c.g * value
        raise ValueError(
            f"path: {source} alone does not give {to} where the path adds noise of its own (only g = 0 does); predict "
            "velocity_and_noise"
        )
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
        case "v_prediction":
            return c.b * noise - c.a * data


def convert_pair(velocity: Tensor, noise: Tensor, x_t: Tensor, coefficients: Coefficients, *, to: Quantity) -> Tensor:
    """Translates velocity and noise, known at x_t = a x_0 + b x_1 + g z, into another quantity.

    The score is -z / g, and velocity + g dg z / g = da x_0 + db x_1 is the velocity without the path's own noise: with
    the path itself that makes two equations for x_0 and x_1. The divisor g is at least 1e-3.

    Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, equations 2.11 to 2.14.

    Args:
        velocity: [B, *D] the velocity.
        noise: [B, *D] the noise z.
        x_t: [B, *D] the state they belong to.
        coefficients: of the path at the B times.
        to: what is wanted.

    Returns:
        [B, *D] the wanted quantity.

    Raises:
        ValueError: if the path mixes its ends so that they cannot be told apart, v is asked for, or a name is unknown.
    """
    _check_names(to=to)
    c = coefficients.broadcast(x_t)
    score = -noise / _away_from_zero(c.g)
    match to:
        case "velocity":
            return velocity
        case "noise":
            return noise
        case "score":
            return score
        case "data":
            determinant = c.a * c.db - c.da * c.b
            if bool(torch.any(determinant == 0)):
                raise ValueError("path: velocity and noise leave the data open on this path; use the score")
            return (c.a * (velocity + c.g_dg * score) - c.da * (x_t - c.g * noise)) / determinant
        case "v_prediction":
            raise ValueError("path: v_prediction is of paths without noise of their own; use the score")


def _check_names(**fields: str) -> None:
    for field, name in fields.items():
        if name not in get_args(Quantity):
            raise ValueError(f"{field}: no quantity is called {name!r}; use one of {', '.join(get_args(Quantity))}")


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
        case "v_prediction":
            return c.b * x_t - c.a * value, c.a * x_t + c.b * value


def _away_from_zero(divisor: Tensor) -> Tensor:
    floor = torch.where(divisor < 0, -SMALLEST_DIVISOR, SMALLEST_DIVISOR)
    return torch.where(divisor.abs() < SMALLEST_DIVISOR, floor, divisor)
