"""Paths by a table, and the table of the path to a data set whose flow has the least kinetic energy.

Source: Shaul et al., "On Kinetic Optimal Probability Paths for Generative Models", arXiv 2306.06626. The kinetic energy
of a Gaussian path depends on the data through one function of the signal-to-noise ratio: the error of the best estimate
of a point from the point with noise. With the weights of data and source in polar form, rho sin(angle) and
rho cos(angle), the energy is the integral of rho'^2 + G(angle) (rho angle')^2. This metric is flat: the best path is a
straight line in coordinates whose angle is the integral of sqrt(G).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from netsim.foundation.documents import parse_json
from netsim.foundation.files import file_digest, replacing
from netsim.foundation.refusal import Refusal, prefixed
from netsim.foundation.settings import Section
from trainer.flow.path.affine import Affine, Schedule, UniformSpline, without_noise
from trainer.flow.path.protocol import Coefficients
from trainer.flow.path.protocol import Path as FlowPath

FORMAT = "flowfabric.path/1"
HEADER = "header"
REMEDY = "fit it again (python -m trainer fit-path)"
ENDS = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


@dataclass(frozen=True)
class PathTable:
    """Weights of source and data at times k / K, float64 [K + 1, 2], their slopes, and for display their origin."""

    weights: Tensor
    slopes: Tensor
    made_by: dict[str, Any]

    def write(self, path: Path) -> None:
        """Writes the table; equal tables have equal bytes."""
        header = json.dumps({"format": FORMAT, "made_by": self.made_by}, sort_keys=True)
        arrays = {"weights": self.weights.contiguous(), "slopes": self.slopes.contiguous()}
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata={HEADER: header})


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file; a Refusal if it cannot be read."""
    try:
        return file_digest(path)[:16]
    except OSError as error:
        raise _unreadable(path, error) from error


def read_table(path: Path) -> PathTable:
    """Reads a table of the fit-path verb; a Refusal if it is missing, damaged, or no path from source to data."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            arrays = {name: file.get_tensor(name) for name in names & {"weights", "slopes"}}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    try:
        header = parse_json(metadata.get(HEADER, "{}"))
    except ValueError as error:
        raise Refusal(path, HEADER, f"is not JSON ({error})", REMEDY) from error
    file_format = header.get("format") if isinstance(header, dict) else None
    if file_format != FORMAT:
        raise Refusal(path, "format", f"is {file_format} where a table of a path has {FORMAT}", REMEDY)
    for name in ("weights", "slopes"):
        if name not in arrays:
            raise Refusal(path, name, f"is missing (there are {', '.join(sorted(names)) or 'none'})", REMEDY)
        shape, dtype = tuple(arrays[name].shape), arrays[name].dtype
        if dtype != torch.float64 or len(shape) != 2 or shape[1] != 2 or shape[0] < 2:
            raise Refusal(path, name, f"is {dtype} of shape {list(shape)}, not float64 [K + 1, 2]", REMEDY)
        if not bool(arrays[name].isfinite().all()):
            raise Refusal(path, name, "contains values that are not finite", REMEDY)
    table = PathTable(arrays["weights"], arrays["slopes"], header.get("made_by") or {})
    if table.weights.shape != table.slopes.shape:
        lengths = f"{len(table.slopes)} times where weights has {len(table.weights)}"
        raise Refusal(path, "slopes", f"has {lengths}", REMEDY)
    if not torch.equal(table.weights[[0, -1]], ENDS):
        raise Refusal(path, "weights", f"begins and ends at {table.weights[[0, -1]].tolist()}", REMEDY)
    (a, b), (da, db) = table.weights.unbind(1), table.slopes.unbind(1)
    if not bool((a * db - da * b > 0).all()):
        raise Refusal(path, "weights", "turns back between source and data", REMEDY)
    return table


def _unreadable(path: Path, error: Exception) -> Refusal:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return Refusal(path, "table", f"cannot be read ({reason})", REMEDY)


class TabulatedConfig(Section):
    """A path that the fit-path verb fitted to data."""

    kind: Literal["tabulated"] = "tabulated"
    path: Path
    """The file of the path."""
    digest: str
    """Digest of the file, so that a run continues on the same path; computed from the file if left out."""

    @classmethod
    def resolved(cls, document: dict[str, Any]) -> dict[str, Any]:
        """Takes the digest from the file if it is left out; a ValueError if the file is missing or no table."""
        if not isinstance(document.get("path"), str | Path) or "digest" in document:
            return document
        with prefixed("path: "):
            read_table(Path(document["path"]))
            return {**document, "digest": digest(Path(document["path"]))}

    def build(self) -> FlowPath:
        """The path of the file; a Refusal if it is no table, or its digest is not the configured one."""
        table, current = read_table(self.path), digest(self.path)
        if current != self.digest:
            problem = f"is {self.digest} but the file has {current}"
            raise Refusal(self.path, "digest", problem, "bring the file back, or leave the field out for another run")
        return Affine(Tabulated(table))


class Tabulated:
    """The schedule of a table: its values and slopes at the times k / K, cubic polynomials in between."""

    def __init__(self, table: PathTable) -> None:
        self._weights = UniformSpline(table.weights, table.slopes)

    def __call__(self, t: Tensor) -> Coefficients:
        (a, b), (da, db) = (values.unbind(1) for values in self._weights(t))
        return without_noise(a, b, da=da, db=db)


RATIOS = torch.logspace(math.log10(1e-2), math.log10(60.0), 60, dtype=torch.float64)
"""Signal-to-noise ratios at which G is estimated; outside them its value is that at the nearest ratio."""

NODES = 4000
TIMES = 20_000
CHUNK_VALUES = 4_000_000


@dataclass(frozen=True)
class Separation:
    """How well points of a data set can be estimated from the points with noise.

    Attributes:
        prices: float64 [60], for each of `RATIOS` r: G = 1 - (1 + r^2) E|x - E[x | r x + noise]|^2 / d in [0, 1], of
            data with mean 0 and E|x|^2 = d. 0: the error is that of Gaussian data; 1: there is no error.
        scale: standard deviation of the data about their mean, in units of the noise.
    """

    prices: Tensor
    scale: float

    @property
    def known(self) -> Tensor:
        """lambda = E|E[x | r x + noise]|^2 / d for each of `RATIOS`, float64 [60]."""
        return 1 - (1 - self.prices) / (1 + RATIOS**2)

    def price(self, angle: Tensor) -> Tensor:
        """G at angles [N] from 0 (noise) to pi / 2 (data): the energy of a change of the angle over its square."""
        from scipy.interpolate import PchipInterpolator

        ratio = torch.tan(angle.double()).abs().clamp(RATIOS[0], RATIOS[-1])
        values = PchipInterpolator(RATIOS.log().numpy(), self.prices.numpy())(ratio.log().numpy())
        return torch.from_numpy(np.asarray(values)).clamp(0, 1)


def estimate(
    points: Tensor,
    *,
    draws: int,
    generator: torch.Generator,
    progress: Callable[[int], None] = lambda _: None,
) -> Separation:
    """Estimates the separation of the empirical distribution of points [N, D], which are centred and scaled first.

    Two estimates of G have the same mean. That from the variance of x given y = r x + noise is exact where nearly every
    point can be identified. That from the distance between the mean of x given y and the best linear estimate r y / (1
    + r^2) is exact where nearly none can. Their difference is a control variate. Every ratio has the same draws.
    `progress` gets the number of finished ratios, of 60. A ValueError for points that are fewer than two, not finite or
    all equal.
    """
    if len(points) < 2 or not bool(points.isfinite().all()):
        raise ValueError(f"points: {len(points)} points, or some not finite; give two or more finite ones")
    centred = points.double() - points.double().mean(0)
    scale = float(centred.square().mean().sqrt())
    if scale == 0:
        raise ValueError("points: all are equal; give points that differ")
    x = centred / scale
    squares = x.square().sum(1)
    drawn = torch.randint(len(x), (draws,), generator=generator)
    noise = torch.randn(draws, x.shape[1], generator=generator, dtype=torch.float64)
    rows = max(1, CHUNK_VALUES // len(x))
    prices = torch.zeros(len(RATIOS), dtype=torch.float64)
    for number, ratio in enumerate(RATIOS.tolist()):
        above, parts = 1 + ratio**2, []
        for rows_drawn, around in zip(drawn.split(rows), noise.split(rows), strict=True):
            noisy = ratio * x[rows_drawn] + around
            posterior = (ratio * noisy @ x.mT - ratio**2 / 2 * squares).softmax(1)
            mean = posterior @ x
            variance = posterior @ squares - mean.square().sum(1)
            distance = (mean - ratio / above * noisy).square().sum(1)
            parts.append(torch.stack([1 - above * variance / x.shape[1], above * distance / x.shape[1]]))
        prices[number] = _combined(*torch.cat(parts, dim=1))
        progress(number + 1)
    return Separation(prices.clamp(0, 1), scale)


def _combined(first: Tensor, second: Tensor) -> Tensor:
    """The mean of the first estimate [N], with the difference of both, which has mean 0, as its control variate."""
    difference = first - second
    spread = difference.var(unbiased=False)
    if spread == 0:
        return first.mean()
    covariance = ((first - first.mean()) * (difference - difference.mean())).mean()
    return first.mean() - covariance / spread * difference.mean()


def fit(separation: Separation, *, least_price: float = 1e-3, knots: int = 1000) -> PathTable:
    """The path of least kinetic energy, to unscaled data, tabulated at the times k / knots.

    `least_price`, in (0, 1], bounds G from below: where G is 0 the path would jump. With a smaller bound the path may
    be steeper there.
    """
    from scipy.interpolate import PchipInterpolator

    angle, stretched = _stretched(separation, least_price)
    whole, scale = float(stretched[-1]), separation.scale
    turn = PchipInterpolator(stretched.numpy(), angle.numpy())
    t = torch.linspace(0.0, 1.0, knots + 1, dtype=torch.float64)
    near, far = 1 - t, scale * t
    rho = (near**2 + far**2 + 2 * near * far * math.cos(whole)).sqrt()
    place = torch.atan2(far * math.sin(whole), near + far * math.cos(whole)).clamp(0, whole).numpy()
    theta, rate = (torch.from_numpy(values) for values in (turn(place), turn.derivative()(place)))
    dtheta = rate * scale * math.sin(whole) / rho**2
    drho = (scale**2 * t - near + scale * (1 - 2 * t) * math.cos(whole)) / rho
    sine, cosine = theta.sin(), theta.cos()
    weights = torch.stack([rho * cosine, rho * sine / scale], dim=1)
    slopes = torch.stack([drho * cosine - rho * sine * dtheta, (drho * sine + rho * cosine * dtheta) / scale], dim=1)
    weights[[0, -1]] = ENDS
    return PathTable(weights, slopes, {})


def angle_between(separation: Separation, least_price: float = 0.0) -> float:
    """Phi: the integral of sqrt(G) from noise to data, from 0 (Gaussian data) to pi / 2 (points far apart)."""
    return float(_stretched(separation, least_price)[1][-1])


def least_energy(separation: Separation, least_price: float = 0.0) -> float:
    """The kinetic energy per dimension of the best path, about the mean: the square of a straight line's length."""
    scale = separation.scale
    return 1 + scale**2 - 2 * scale * math.cos(angle_between(separation, least_price))


def kinetic_energy(schedule: Schedule, separation: Separation, least_price: float = 0.0) -> float:
    """Integral over time of E|u|^2 / d for centred data; a mean adds |mean|^2 / d times `mean_energy`."""
    c, scale = schedule(_midpoints()), separation.scale
    signal, dsignal = scale * c.b, scale * c.db
    rho = torch.hypot(signal, c.a)
    drho, turn = (signal * dsignal + c.a * c.da) / rho, (dsignal * c.a - c.da * signal) / rho
    price = separation.price(torch.atan2(signal, c.a)).clamp(min=least_price)
    return float((drho**2 + price * turn**2).mean())


def mean_energy(schedule: Schedule) -> float:
    """Integral over time of db^2: the energy of moving a mean of length 1. It is 1 on the straight path, else more."""
    return float(schedule(_midpoints()).db.square().mean())


def _midpoints() -> Tensor:
    return (torch.arange(TIMES, dtype=torch.float64) + 0.5) / TIMES


def _stretched(separation: Separation, least_price: float) -> tuple[Tensor, Tensor]:
    """Angles from 0 to pi / 2 and the integrals of sqrt(G) up to each, float64 [N]."""
    ratios = torch.logspace(-5, 5, NODES, dtype=torch.float64)
    angle = torch.cat([ratios.new_zeros(1), ratios.atan(), ratios.new_full((1,), math.pi / 2)])
    root = separation.price(angle).clamp(min=least_price).sqrt()
    steps = (root[1:] + root[:-1]) / 2 * angle.diff()
    return angle, torch.cat([angle.new_zeros(1), steps.cumsum(0)])
