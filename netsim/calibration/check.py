"""Errors of a calibration's predictions against measurements, by operation and in total."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from netsim.calibration.document import Calibration
from netsim.calibration.measured import Measurement


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
        found = abs(predicted.time_us / one.time_us - 1), inside, predicted.extrapolated
        by_name.setdefault(_name(one), []).append(found)
        everything.append(found)
    errors = [_error(name, found) for name, found in sorted(by_name.items())]
    return Judgement([*errors, *([_error("all", everything)] if len(errors) > 1 else [])], unknown)


def _name(one: Measurement) -> str:
    hosts = "" if one.hosts == 1 else f", {one.hosts} hosts"
    return f"{one.op}{hosts}" + (f", {one.sms} SMs" if one.sms else "")


def _error(name: str, found: Sequence[tuple[float, bool, bool]]) -> Error:
    off, inside, extrapolated = (np.array(column, dtype=float) for column in zip(*found, strict=True))
    median, p90 = (float(np.quantile(off, part)) for part in (0.5, 0.9))
    shares = (float(column.mean()) for column in (inside, extrapolated))
    return Error(name, len(found), *(round(value, 4) for value in (median, p90, *shares)))
