"""Conversions between the velocity, the data, the noise, the score and v of one state."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from trainer.flow.path.protocol import Coefficients, Path

Quantity = Literal["velocity", "data", "noise", "score", "v_prediction"]

SMALLEST_DIVISOR = 1e-3
"""Least weight of a term that a conversion divides by, in units of the largest weight of that term."""


def determines(source: Quantity, to: Quantity, path: Path) -> bool:
    """Whether one quantity and the state determine another quantity at every time in (0, 1)."""
    if source == to:
        return True
    if not path.affine or (not path.normal and "score" in (source, to)):
        return False
    if source == "v_prediction":
        return path.preserves_variance
    if not path.has_noise or {source, to} == {"noise", "score"}:
        return True
    return to != "v_prediction" and not path.has_source and (path.separable or source != "velocity")


def pair_determines(to: Quantity, path: Path) -> bool:
    """Whether velocity and noise together determine a quantity at every time in (0, 1), on a path with noise."""
    match to:
        case "velocity" | "noise":
            return True
        case "score":
            return path.affine and path.has_noise
        case "data":
            return path.affine and path.has_noise and (path.separable or not path.has_source)
        case "v_prediction":
            return False


def convert(value: Tensor, x_t: Tensor, t: Tensor, path: Path, *, source: Quantity, to: Quantity) -> Tensor:
    """Converts one quantity [B, *D] at x_t into another; a ValueError if the path does not determine that one.

    A path of two terms is x_t = n noise + b data. The noise is x_0 with n = a where the path has no noise of its own,
    and z with n = g where it has no source. The path and the definition of the known quantity are two linear equations
    for noise and data. From these follow the velocity dn noise + db data, v = b noise - n data, and the score -noise /
    n, the gradient of the log density if the noise is standard normal and independent of the data, as z is. From v the
    others follow here only where n^2 + b^2 = 1. On a path of three terms, a x_0 + b x_1 + g z, only noise and score
    follow from each other.

    Where the formula divides by n or b, the divisor is at least 1e-3 of the scale of that weight: a result that is
    undetermined at one end of the path is finite there. Elsewhere results are exact. They are exact at every time if b
    is never 0 (`Path.starts_as`), and from the velocity to data or noise.
    """
    _check_names(source=source, to=to)
    if source == to:
        return value
    c = path.coefficients(t).broadcast(x_t)
    if not determines(source, to, path):
        raise ValueError(_open(source, to, path))
    n, dn = (c.g, c.dg) if path.has_noise else (c.a, c.da)
    match source, to:
        case "noise", "score":
            return -value / _away_from_zero(n, path.noise_scale)
        case "score", "noise":
            return -n * value
    match source:
        case "velocity":
            determinant = n * c.db - dn * c.b
            data, noise = (n * value - dn * x_t) / determinant, (c.db * x_t - c.b * value) / determinant
        case "data":
            data, noise = value, (x_t - c.b * value) / _away_from_zero(n, path.noise_scale)
        case "noise":
            data, noise = (x_t - n * value) / _weight_of_data(c, path), value
        case "score":
            data, noise = (x_t + n**2 * value) / _weight_of_data(c, path), -n * value
        case "v_prediction":
            data, noise = c.b * x_t - n * value, n * x_t + c.b * value
    match to:
        case "velocity" if path.has_noise and source == "score":
            return c.db * data - c.g_dg * value  # dn noise, finite where dn is not
        case "velocity":
            return dn * noise + c.db * data
        case "data":
            return data
        case "noise":
            return noise
        case "score":
            return -noise / _away_from_zero(n, path.noise_scale)
        case "v_prediction":
            return c.b * noise - n * data


def convert_pair(velocity: Tensor, noise: Tensor, x_t: Tensor, t: Tensor, path: Path, *, to: Quantity) -> Tensor:
    """Converts velocity and noise at x_t = a x_0 + b x_1 + g z into another quantity, or raises a ValueError.

    The score is -z / g, its divisor at least 1e-3 of the path's noise scale. The velocity without the path's noise is
    velocity - dg z = da x_0 + db x_1; this and x_t - g z = a x_0 + b x_1 are two equations for x_0 and x_1. Albergo,
    Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797, equations 2.11 to 2.14.
    """
    _check_names(to=to)
    if to == "velocity":
        return velocity
    if to == "noise":
        return noise
    c = path.coefficients(t).broadcast(x_t)
    if not pair_determines(to, path):
        raise ValueError(_open_to_pair(to, path))
    if to == "score":
        return -noise / _away_from_zero(c.g, path.noise_scale)
    if path.has_source:
        determinant = c.a * c.db - c.da * c.b
        return (c.a * (velocity - c.dg * noise) - c.da * (x_t - c.g * noise)) / determinant
    if path.separable:
        return convert(velocity, x_t, t, path, source="velocity", to=to)
    return (x_t - c.g * noise) / _weight_of_data(c, path)


def _check_names(**fields: str) -> None:
    for field, name in fields.items():
        if name not in get_args(Quantity):
            raise ValueError(f"{field}: no quantity is called {name!r}; use one of {', '.join(get_args(Quantity))}")


def _open(source: Quantity, to: Quantity, path: Path) -> str:
    if not path.normal:
        return "path: its noise is not normal, so that the score does not follow from it; use the velocity"
    if "v_prediction" in (source, to):
        return "path: v_prediction is defined where a^2 + b^2 = 1; use a variance-preserving path, or another quantity"
    if path.has_source:
        return (
            f"path: {source} alone does not give {to} where the path adds noise of its own to source and data (it does "
            "where g = 0 or a = 0); predict velocity_and_noise"
        )
    return (
        f"path: {source} alone does not give {to} on this path of data and noise of its own, whose velocity is 0 at "
        "some time; predict noise, data, or velocity_and_noise"
    )


def _open_to_pair(to: Quantity, path: Path) -> str:
    if to == "v_prediction":
        return "path: v_prediction is of paths without noise of their own; use the score"
    if not path.has_noise:
        return f"path: it adds no noise of its own, and a prediction of that noise does not give {to}; predict velocity"
    return "path: velocity and noise leave the data open on this path; use the score"


def _weight_of_data(c: Coefficients, path: Path) -> Tensor:
    return _away_from_zero(c.b, 1.0) if path.starts_as == "source" else c.b


def _away_from_zero(divisor: Tensor, scale: float) -> Tensor:
    least = SMALLEST_DIVISOR * scale
    floor = torch.full_like(divisor, least)
    return torch.where(divisor.abs() < least, torch.where(divisor < 0, -floor, floor), divisor)
