"""Sorting of segments of pairs, such as the packets of one link by (arrival, number)."""

from typing import NamedTuple

import numpy as np
from numba import njit

_CROWD = 32
"""Largest bucket that is sorted by insertion."""


class Room(NamedTuple):
    """Scratch space for sorting segments up to a length."""

    key: np.ndarray  # room for the keys
    index: np.ndarray  # room for the indices
    count: np.ndarray  # room for one entry more


@njit(cache=True)
def room_for(begin: np.ndarray) -> Room:
    """Scratch space for any of the segments with the boundaries `begin`."""
    size = 1
    for stretch in range(len(begin) - 1):
        size = max(size, begin[stretch + 1] - begin[stretch])
    return Room(np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64), np.empty(size + 1, dtype=np.int64))


@njit(cache=True)
def sort(key: np.ndarray, index: np.ndarray, room: Room) -> None:
    """Sorts by (key, index) in place; in linear time if keys are spread evenly or are in order already."""
    in_order = True
    least = most = key[0] if len(key) else 0
    for place in range(1, len(key)):
        in_order &= not _swapped(key[place - 1], index[place - 1], key[place], index[place])
        least, most = min(least, key[place]), max(most, key[place])
    if not in_order and not _sort_by_buckets(key, index, least, most, room):
        _sort_by_merging(key, index, room)


@njit(cache=True)
def _swapped(first_key: int, first_index: int, second_key: int, second_index: int) -> bool:
    """Whether two pairs are out of order, without branches, which the processor could not predict."""
    return (second_key < first_key) | ((second_key == first_key) & (second_index < first_index))


@njit(cache=True)
def _bucket(key: int, least: int, shift: np.uint64) -> np.uint64:
    """Unsigned, because the distance of two signed keys may need all 64 bits."""
    return (np.uint64(key) - np.uint64(least)) >> shift


@njit(cache=True)
def _sort_by_buckets(key: np.ndarray, index: np.ndarray, least: int, most: int, room: Room) -> bool:
    """As many buckets of equal width as pairs; False, with nothing done, if one of them is crowded."""
    size, shift, one = len(key), np.uint64(0), np.uint64(1)
    while _bucket(most, least, shift) >= np.uint64(size):
        shift += one
    room.count[: size + 1] = 0
    for place in range(size):
        room.count[_bucket(key[place], least, shift) + one] += 1
    crowd = np.int64(0)
    for bucket in range(1, size + 1):
        crowd = max(crowd, room.count[bucket])
        room.count[bucket] += room.count[bucket - 1]
    if crowd > _CROWD:
        return False
    for place in range(size):
        bucket = _bucket(key[place], least, shift)
        room.key[room.count[bucket]], room.index[room.count[bucket]] = key[place], index[place]
        room.count[bucket] += 1
    for place in range(size):
        free, this_key, this_index = np.uint64(place), room.key[place], room.index[place]
        while free and _swapped(key[free - one], index[free - one], this_key, this_index):
            key[free], index[free] = key[free - one], index[free - one]
            free -= one
        key[free], index[free] = this_key, this_index
    return True


@njit(cache=True)
def _sort_by_merging(key: np.ndarray, index: np.ndarray, room: Room) -> None:
    """Merges neighbours among the ascending runs until one is left: size * log2(runs) steps, whatever the keys."""
    size, runs, begin = len(key), 0, room.count
    begin[0] = 0
    for place in range(1, size):
        if _swapped(key[place - 1], index[place - 1], key[place], index[place]):
            runs += 1
            begin[runs] = place
    runs += 1
    begin[runs] = size
    from_key, from_index, to_key, to_index = key, index, room.key, room.index
    back = False
    while runs > 1:
        for run in range(0, runs, 2):
            _merge(from_key, from_index, begin[run], begin[run + 1], begin[min(run + 2, runs)], to_key, to_index)
            begin[run >> 1] = begin[run]
        runs = (runs + 1) >> 1
        begin[runs] = size
        from_key, from_index, to_key, to_index = to_key, to_index, from_key, from_index
        back = not back
    if back:
        key[:], index[:] = room.key[:size], room.index[:size]


@njit(cache=True)
def _merge(
    key: np.ndarray, index: np.ndarray, begin: int, middle: int, end: int, to_key: np.ndarray, to_index: np.ndarray
) -> None:
    """Merges [begin, middle) and [middle, end)."""
    left, right = begin, middle
    for place in range(begin, end):
        if left == middle or (right < end and _swapped(key[left], index[left], key[right], index[right])):
            to_key[place], to_index[place] = key[right], index[right]
            right += 1
        else:
            to_key[place], to_index[place] = key[left], index[left]
            left += 1
