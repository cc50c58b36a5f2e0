"""Order of arrivals at a unit: the order of the event engine's calendar, by time and key."""

import numpy as np

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Record

_RUN = 16
PLACES = 1024
"""Parts into which arrivals of a unit are dealt at most, by their time."""


@compiled
def sort(arrivals: Array, scratch: Array, places: Array, begin: int, end: int, first_ps: int, end_ps: int) -> None:
    """Sorts rows [begin, end) of arrivals: few by insertion, many within parts into which they are dealt by their time.

    `scratch` has as many records, `places` `PLACES` numbers; both are overwritten.
    """
    if end - begin <= _RUN:
        _insert(arrivals, begin, end)
        return
    parts = _RUN
    while parts < end - begin and parts < PLACES:
        parts *= 2
    _deal(arrivals, scratch, places, begin, end, first_ps, parts / (end_ps - first_ps), parts)
    first = begin
    for part in range(parts):
        last = np.int64(places[part])
        if last > first + 1:
            _sort_part(arrivals, scratch, first, last)
        first = last


@compiled
def _deal(
    arrivals: Array, scratch: Array, places: Array, begin: int, end: int, first_ps: int, scale: float, parts: int
) -> None:
    """Deals arrivals into parts by their time; afterwards `places` has the row after the last one of each part."""
    for part in range(parts):
        places[part] = 0
    for row in range(begin, end):
        scratch[row] = arrivals[row]
        places[np.int64((scratch[row].time_ps - first_ps) * scale)] += 1
    row = np.int64(begin)
    for part in range(parts):
        size = places[part]
        places[part] = row
        row += size
    for row in range(begin, end):
        part = np.int64((scratch[row].time_ps - first_ps) * scale)
        arrivals[places[part]] = scratch[row]
        places[part] += 1


@compiled
def _sort_part(arrivals: Array, scratch: Array, begin: int, end: int) -> None:
    """Sorts by insertion, and many by merging runs."""
    for first in range(begin, end, _RUN):
        _insert(arrivals, first, min(first + _RUN, end))
    length = _RUN
    while length < end - begin:
        for first in range(begin, end, 2 * length):
            middle, last = min(first + length, end), min(first + 2 * length, end)
            if middle < last and _comes_first(arrivals[middle], arrivals[middle - 1]):
                _merge(arrivals, scratch, first, middle, last)
        length *= 2


@compiled
def _comes_first(one: Record, other: Record) -> bool:
    return one.time_ps < other.time_ps or (one.time_ps == other.time_ps and one.key < other.key)


@compiled
def _insert(arrivals: Array, begin: int, end: int) -> None:
    for row in range(begin + 1, end):
        if not _comes_first(arrivals[row], arrivals[row - 1]):
            continue
        moved = arrivals[row]
        time_ps, key, place, unit = moved.time_ps, moved.key, moved.place, moved.unit
        free = row
        while free > begin:
            before = arrivals[free - 1]
            if before.time_ps < time_ps or (before.time_ps == time_ps and before.key < key):
                break
            arrivals[free] = before
            free -= 1
        to = arrivals[free]
        to.time_ps, to.key, to.place, to.unit = time_ps, key, place, unit


@compiled
def _merge(arrivals: Array, scratch: Array, begin: int, middle: int, end: int) -> None:
    """Merges two sorted runs; the first one is moved out of the way."""
    for row in range(begin, middle):
        scratch[row] = arrivals[row]
    left, right, row = begin, middle, begin
    while left < middle:
        if right < end and _comes_first(arrivals[right], scratch[left]):
            arrivals[row] = arrivals[right]
            right += 1
        else:
            arrivals[row] = scratch[left]
            left += 1
        row += 1
