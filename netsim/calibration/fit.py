"""From measurements to a calibration: a cost for each operation, its distance from them, and errors of predictions."""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from netsim.calibration.cost import Cost, Points, fitted, least_points, without_each
from netsim.calibration.document import Calibration, Series, Spread, section_of
from netsim.calibration.measured import Measurement, Operation
from netsim.foundation.refusal import Refusal


class Error(NamedTuple):
    """How far predictions lie from measurements.

    `median` and `p90` are of the magnitude of predicted / measured - 1; `covered` is the share of measurements inside
    their intervals, `extrapolated` that of predictions for sizes or ranks that the calibration has not seen.
    """

    name: str
    measurements: int
    median: float
    p90: float
    covered: float
    extrapolated: float


class Judgement(NamedTuple):
    """Errors of each operation and of all; `unknown` counts measurements that the calibration does not cover."""

    errors: Sequence[Error]
    unknown: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the errors as the content of a JSON document."""
        return {
            "format": "flowfabric.calibration_check/1",
            "errors": [one._asdict() for one in self.errors],
            "unknown": self.unknown,
        }


def judge(calibration: Calibration, measurements: Sequence[Measurement]) -> Judgement:
    """Compares predictions with measurements."""
    by_name: dict[str, list[tuple[float, bool, bool]]] = {}
    everything: list[tuple[float, bool, bool]] = []
    unknown = 0
    for one in measurements:
        predicted = calibration.predict(one.op, one.ranks, one.bytes, one.hosts, one.sms)
        if predicted is None:
            unknown += 1
            continue
        inside = predicted.low_us <= one.time_us <= predicted.high_us
        judged = abs(predicted.time_us / one.time_us - 1), inside, predicted.extrapolated
        by_name.setdefault(_name(one), []).append(judged)
        everything.append(judged)
    errors = [_error(name, judged) for name, judged in sorted(by_name.items())]
    return Judgement([*errors, *([_error("all", everything)] if len(errors) > 1 else [])], unknown)


def _name(one: Measurement) -> str:
    hosts = "" if one.hosts == 1 else f", {one.hosts} hosts"
    return f"{one.op}{hosts}" + (f", {one.sms} SMs" if one.sms else "")


def _error(name: str, judged: Sequence[tuple[float, bool, bool]]) -> Error:
    off, inside, extrapolated = (np.array(column, dtype=float) for column in zip(*judged, strict=True))
    median, p90 = (float(np.quantile(off, part)) for part in (0.5, 0.9))
    shares = (float(column.mean()) for column in (inside, extrapolated))
    return Error(name, len(judged), *(round(value, 4) for value in (median, p90, *shares)))


COVERAGE = 0.9
_NEIGHBOURS = 19
"""Measurements near a size from which its bound is computed: 18 of 19 make a bound of 90 % (Vovk et al., 2005)."""

Key = tuple[Operation, int, int | None]


def calibrate(
    measurements: Sequence[Measurement], source: str, progress: Callable[[str, int], None] | None = None
) -> Calibration:
    """Fits every operation on every number of hosts.

    Args:
        measurements: Of one device.
        source: Name of the sources, for the file and for messages.
        progress: Called before each fit with its operation and the number of fits.

    Raises:
        Refusal: An operation has too few measurements, or larger ones take less time.
    """
    groups: dict[Key, list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.op, one.hosts, one.sms), []).append(one)
    series = []
    for key in sorted(groups, key=lambda key: (key[1], key[2] or 0, key[0])):
        if progress:
            progress(key[0], len(groups))
        series.append(_series(key, groups[key], source))
    device = min((one.device for one in measurements), key=len)
    return Calibration(format="flowfabric.calibration/1", device=device, source=source, series=tuple(series))


def _series(key: Key, measurements: Sequence[Measurement], source: str) -> Series:
    op, hosts, sms = key
    points = Points(
        np.array([one.ranks for one in measurements], dtype=np.int64),
        np.array([one.bytes for one in measurements], dtype=np.int64),
        np.array([one.time_us for one in measurements]),
    )
    _refuse_weak(op, points, source)
    cost = fitted(op, points)
    return Series(
        op=op,
        hosts=hosts,
        sms=sms,
        ranks=tuple(np.unique(points.ranks).tolist()),
        points=len(points.sizes),
        last=cost.last,
        regimes=tuple(section_of(regime, cost.last) for regime in cost.regimes),
        spread=_spread(op, cost, points),
    )


def _refuse_weak(op: str, points: Points, source: str) -> None:
    """Refuses too few measurements for a fit, and times that fall as the size grows."""
    needed = least_points(points)
    if len(points.sizes) < needed or len(np.unique(points.sizes)) < 3:
        problem = f"has {len(points.sizes)} measurements at {len(np.unique(points.sizes))} sizes"
        raise Refusal(source, op, problem, f"give at least {needed}, at three sizes or more")
    for ranks in np.unique(points.ranks).tolist():
        of_ranks = points.where(points.ranks == ranks)
        third = np.quantile(of_ranks.sizes, [1 / 3, 2 / 3])
        small, large = of_ranks.sizes <= third[0], of_ranks.sizes >= third[1]
        below, above = (float(np.median(of_ranks.times_us[part])) for part in (small, large))
        if above < 0.9 * below:
            problem = f"of {ranks} ranks takes {below:g} us at small sizes and {above:g} us at large ones"
            raise Refusal(source, op, problem, "check the columns of bytes and of times")


def _spread(op: str, cost: Cost, points: Points) -> Spread:
    """Bounds by size, from the measurements nearest to it."""
    sizes = np.unique(points.sizes)
    left_out = np.empty(len(points.sizes))
    for size in sizes:
        rest = points.sizes != size
        left_out[~rest] = _errors(repeat(fitted(op, points.where(rest), cost.last)), points.where(~rest))
    seen = _errors(without_each(cost, points), points)
    near = [np.argsort(np.abs(np.log(points.sizes / size)), kind="stable")[:_NEIGHBOURS] for size in sizes]
    inner = [round(_bound(seen[these]), 4) for these in near]
    outer = [max(least, round(_bound(left_out[these]), 4)) for least, these in zip(inner, near, strict=True)]
    return Spread(bytes=tuple(sizes.tolist()), seen=tuple(inner), left_out=tuple(outer))


def _errors(costs: Iterable[Cost], points: Points) -> np.ndarray:
    """Magnitude of log(measured / predicted), [point]; each measurement is predicted by its own formula of `costs`."""
    times = [cost.time_us(*one) for cost, *one in zip(costs, points.ranks.tolist(), points.sizes.tolist())]  # noqa: B905
    return np.abs(np.log(points.times_us / np.array(times)))


def _bound(errors: np.ndarray) -> float:
    """The conformal bound: of n errors the ceil((n + 1) x 90 %)-th, at most the largest."""
    place = min(ceil((len(errors) + 1) * COVERAGE), len(errors))
    return float(np.sort(errors)[place - 1])
