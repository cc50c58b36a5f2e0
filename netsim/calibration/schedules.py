"""Measured times in a simulation: whole collectives within a host, and software delays of all other collectives."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from netsim.calibration.document import Calibration, Prediction
from netsim.collective.build import Schedules, Software
from netsim.collective.columns import MessageColumns, Shape
from netsim.collective.config import OPERATIONS, Algorithms
from netsim.collective.group import size_of
from netsim.collective.protocol import Operation
from netsim.topology.mapping import RankMap

_PS_PER_US = 10**6


class MeasuredCollectives(NamedTuple):
    """Times of collectives of one size, by the fabric's rates and by measurements; `bytes` as `size_of` counts them.

    `nominal_ps` is the estimate of their algorithm on an idle fabric, None where it has none.
    """

    op: str
    ranks: int
    hosts: int
    bytes: int
    collectives: int
    nominal_ps: int | None
    predicted: Prediction


class Calibrated:
    """Schedules in which a collective within one host takes its measured time and sends no messages."""

    def __init__(self, schedules: Schedules, calibration: Calibration, mapping: RankMap) -> None:
        self._schedules, self._calibration, self._mapping = schedules, calibration, mapping
        self._used: dict[tuple[str, int, int, int], MeasuredCollectives] = {}
        self._together = cache(_together)

    def __call__(self, operation: Operation, ranks: Sequence[int]) -> MessageColumns:
        """Messages of an operation, or waits of its measured time; `ranks`: the scenario's, by participant."""
        hosts = len({self._mapping.machines[rank] for rank in ranks})
        known = self._known(operation, ranks, hosts)
        if known is None or hosts > 1:
            return self._schedules(operation, ranks)
        return self._together(operation.size, round(known.predicted.time_us * _PS_PER_US))

    @property
    def used(self) -> list[MeasuredCollectives]:
        """Nominal and measured times of the collectives so far, in the order of operation, ranks, hosts and size."""
        return [self._used[key] for key in sorted(self._used)]

    def _known(self, operation: Operation, ranks: Sequence[int], hosts: int) -> MeasuredCollectives | None:
        size_bytes = size_of(operation)
        if operation.op not in OPERATIONS or operation.size == 1 or not size_bytes:
            return None
        key = operation.op, operation.size, hosts, size_bytes
        known = self._used.get(key)
        if known is None:
            predicted = self._calibration.predict(operation.op, operation.size, size_bytes, hosts)
            if predicted is None:
                return None
            known = MeasuredCollectives(*key, 0, self._schedules.nominal_ps(operation, ranks), predicted)
        self._used[key] = known._replace(collectives=known.collectives + 1)
        return known


def software_of(calibration: Calibration, algorithms: Algorithms) -> Mapping[str, Software]:
    """Launch and step times by operation, at its smallest sizes, for algorithm nccl if the scenario sets none."""
    if algorithms.model_fields_set & {"launch", "step", "inside_step"}:
        return {}
    software: dict[str, Software] = {}
    for series in calibration.series:
        if series.hosts == 1 and getattr(algorithms, series.op, "") == "nccl":
            first = series.regimes[0]
            launch_ps, step_ps = (round(time_us * _PS_PER_US) for time_us in (first.launch_us, first.step_us))
            software[series.op] = Software(launch_ps, 0, step_ps)
    return software


def _together(members: int, delay_ps: int) -> MessageColumns:
    """Returns tasks without bytes: every member ends `delay_ps` after the last member has arrived."""
    everyone = np.arange(members, dtype=np.int64)
    src = np.tile(everyone, 2)
    begin = np.concatenate([np.zeros(members, dtype=np.int64), members * np.arange(members + 1, dtype=np.int64)])
    shape = Shape(src, src, begin, np.tile(everyone, members))
    nothing = np.zeros(2 * members, dtype=np.int64)
    return MessageColumns(shape, nothing, np.repeat(np.array([0, delay_ps], dtype=np.int64), members))
