"""The file of a calibration, `flowfabric.calibration/1`, and what it predicts."""

from itertools import pairwise
from math import exp, log2, sqrt
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from netsim.calibration.cost import Cost, Last, Regime
from netsim.calibration.measured import Operation
from netsim.foundation.documents import read_section
from netsim.foundation.files import unfinished, writing
from netsim.foundation.settings import Section

Microseconds = Annotated[float, Field(ge=0)]
Bound = Annotated[float, Field(ge=0)]
_US_PER_BYTE = 1e-3
"""Microseconds of a byte at 1 GB/s."""


class RegimeSection(Section):
    """A range of sizes in which the factors of the cost hold. A term whose rate is absent takes no time.

    Args:
        from_bytes: Least size that was measured.
        to_bytes: Largest size that was measured.
        launch_us: Time before any data moves, in microseconds.
        step_us: Time of each round of a ring, in microseconds.
        link_gb_per_s: Rate of a rank's link, in 10**9 bytes a second.
        local_gb_per_s: Rate at which a rank copies or adds up data, in 10**9 bytes a second.
        bridge_gb_per_s: Rate of the bridge that all ranks of a host share, in 10**9 bytes a second.
    """

    from_bytes: PositiveInt
    to_bytes: PositiveInt
    launch_us: Microseconds
    step_us: Microseconds = 0.0
    link_gb_per_s: PositiveFloat | None = None
    local_gb_per_s: PositiveFloat | None = None
    bridge_gb_per_s: PositiveFloat | None = None


class Spread(Section):
    """How far measurements lie from the formula: bounds of 90 % of the logarithms of measured / predicted, by size.

    Args:
        bytes: The sizes that were measured.
        seen: Bound where size and number of ranks were measured, from fits that did not see the measurement.
        left_out: Bound a whole step away from the measured sizes, from fits that did not see the size.
    """

    bytes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    seen: tuple[Bound, ...]
    left_out: tuple[Bound, ...]

    @model_validator(mode="after")
    def _of_one_length(self) -> "Spread":
        if not len(self.bytes) == len(self.seen) == len(self.left_out):
            raise ValueError("bytes, seen and left_out have different lengths; calibrate again")
        return self


class Prediction(NamedTuple):
    """Predicted time of a collective and its 90 % interval, us; `extrapolated` beyond measured sizes and ranks."""

    time_us: float
    low_us: float
    high_us: float
    extrapolated: bool


class Series(Section):
    """An operation on some number of hosts.

    Args:
        op: The collective operation that was measured.
        hosts: Number of hosts on which the ranks sit.
        sms: Number of multiprocessors that the kernel takes, where the source gives it.
        ranks: Numbers of ranks that were measured.
        points: Number of measurements.
        last: Kind of the last term of the cost.
        regimes: Factors of the cost in each range of sizes.
        spread: Width of the interval of predictions, by size.
    """

    op: Operation
    hosts: PositiveInt
    sms: PositiveInt | None = None
    ranks: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    points: PositiveInt
    last: Last
    regimes: Annotated[tuple[RegimeSection, ...], Field(min_length=1)]
    spread: Spread

    @model_validator(mode="after")
    def _in_order(self) -> "Series":
        for name, sizes in (
            ("regimes", [size for one in self.regimes for size in (one.from_bytes, one.to_bytes)]),
            ("spread.bytes", self.spread.bytes),
            ("ranks", self.ranks),
        ):
            if list(sizes) != sorted(sizes):
                raise ValueError(f"{name} of {self.op} do not ascend; sort them, or calibrate again")
        return self

    def predict(self, ranks: int, size_bytes: int, growth: float | None = None) -> Prediction:
        """Time of a collective of at least two ranks and one byte.

        `growth` is the time over the time at the largest measured size; None: the series' own formula applies.
        """
        most = self.spread.bytes[-1]
        grown = growth is not None
        time_us = (growth if grown else 1.0) * self.cost().time_us(ranks, most if grown else size_bytes)
        bound = exp(self._bound(ranks, size_bytes))
        outside = ranks not in self.ranks or not self.spread.bytes[0] <= size_bytes <= most
        return Prediction(time_us, time_us / bound, time_us * bound, outside)

    def cost(self) -> Cost:
        """The formula with factors in microseconds."""
        return Cost(self.op, self.last, tuple(_regime(one, self.last) for one in self.regimes))

    def _bound(self, ranks: int, size_bytes: int) -> float:
        """Bound of the log error: `seen` at measured sizes, `left_out` a step away, then growing by the root of steps.

        In between it grows with the square of the distance, as the error of an interpolation does.
        """
        sizes = [log2(one) for one in self.spread.bytes]
        away = max(_steps_away(sizes, log2(size_bytes)), _steps_away([log2(one) for one in self.ranks], log2(ranks)))
        seen, left_out = (
            float(np.interp(log2(size_bytes), sizes, bounds)) for bounds in (self.spread.seen, self.spread.left_out)
        )
        return seen + (left_out - seen) * away**2 if away < 1 else left_out * sqrt(away)


class Calibration(Section):
    """A whole calibration of one kind of machine.

    Args:
        format: Name and version of the format.
        device: Name of the GPU; empty where the sources do not say.
        source: Where the measurements come from.
        series: Measured series, each of an operation on some number of hosts.
    """

    format: Literal["flowfabric.calibration/1"]
    device: str = ""
    source: str = ""
    series: Annotated[tuple[Series, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _said_once(self) -> "Calibration":
        keys = [(one.op, one.hosts, one.sms) for one in self.series]
        for op, hosts, sms in keys:
            if keys.count((op, hosts, sms)) > 1:
                raise ValueError(f"{op} on {hosts} hosts occurs twice; remove one")
        return self

    def predict(
        self, op: str, ranks: int, size_bytes: int, hosts: int = 1, sms: int | None = None
    ) -> Prediction | None:
        """Time of a collective.

        Args:
            op: The operation.
            ranks: Its ranks, at least 2.
            size_bytes: Of all_gather the whole result, of reduce_scatter the whole input, else the buffer of a rank; at
                least 1.
            hosts: Machines on which they sit.
            sms: Multiprocessors of the kernel, where measurements tell them apart.

        Returns:
            None if the operation was not measured on this number of hosts.
        """
        fitted = next((one for one in self.series if (one.op, one.hosts, one.sms) == (op, hosts, sms)), None)
        return fitted and fitted.predict(ranks, size_bytes, self._growth(fitted, size_bytes))

    def _growth(self, series: Series, size_bytes: int) -> float | None:
        """Ratio of the times at a size and at a series' largest, by the nearest series measured that far, if any."""
        most = series.spread.bytes[-1]
        further = [one for one in self.series if one.op == series.op and one.spread.bytes[-1] >= size_bytes > most]
        if not further:
            return None
        other = min(further, key=lambda one: (abs(one.hosts - series.hosts), abs((one.sms or 0) - (series.sms or 0))))
        cost, ranks = other.cost(), other.ranks[-1]
        return cost.time_us(ranks, size_bytes) / cost.time_us(ranks, most)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        text = yaml.safe_dump(
            self.model_dump(mode="json", exclude_none=True), sort_keys=False, default_flow_style=None, width=120
        )
        with writing(path), unfinished(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)


def read_calibration(path: Path) -> Calibration:
    """Reads a calibration, a file or the name of one in configs/calibrations."""
    return read_section(path, "a calibration", "calibrations", Calibration, "write one by python -m netsim calibrate")


def section_of(regime: Regime, last: Last) -> RegimeSection:
    """Returns a regime as a section of the file, rounded to five digits."""
    launch, step, link, through = regime.factors
    rates = {"link_gb_per_s": link, f"{last}_gb_per_s": through}
    return RegimeSection(
        from_bytes=regime.least,
        to_bytes=regime.most,
        launch_us=_rounded(launch),
        step_us=_rounded(step),
        **{name: _rounded(_US_PER_BYTE / factor) for name, factor in rates.items() if factor > 0},
    )


def _regime(section: RegimeSection, last: Last) -> Regime:
    through = section.local_gb_per_s if last == "local" else section.bridge_gb_per_s
    of_bytes = (_US_PER_BYTE / rate if rate else 0.0 for rate in (section.link_gb_per_s, through))
    return Regime(section.from_bytes, section.to_bytes, (section.launch_us, section.step_us, *of_bytes))


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _steps_away(measured: list[float], value: float) -> float:
    """Distance from the nearest of `measured` (log2), in median steps between neighbours; one value: steps of 1."""
    gaps = [after - before for before, after in pairwise(measured)]
    return min(abs(one - value) for one in measured) / (float(np.median(gaps)) if gaps else 1.0)
