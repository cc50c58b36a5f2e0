"""Order of arrivals at a unit: the order of the event engine's calendar, by time and key."""

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Array, Record

_RUN = 16


@compiled
def sort(arrivals: Array, scratch: Array, begin: int, end: int) -> None:
    """Sorts rows of arrivals: few by insertion, many by merging runs of few.

    Args:
        arrivals: Records of `netsim.engine.windowed.wheel.ARRIVAL`.
        scratch: As many records, which are overwritten.
        begin: First row.
        end: The row after the last.
    """
    if end - begin <= _RUN:
        _insert(arrivals, begin, end)
        return
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
