"""Sorting of segments that consist of few ascending runs, as the packets of one link do: one run a link before it."""

import numpy as np
from numba import njit


@njit(cache=True)
def merge_sort(
    key: np.ndarray, index: np.ndarray, spare_key: np.ndarray, spare_index: np.ndarray, runs: np.ndarray
) -> None:
    """Sorts by (key, index) in place: a natural merge sort, n entries in r ascending runs take n log2(r) steps.

    Args:
        key: First criterion.
        index: Second criterion.
        spare_key: Room for as many keys.
        spare_index: Room for as many indices.
        runs: Room for one entry more.
    """
    size, count = len(key), 0
    runs[0] = 0
    for place in range(1, size):
        if _swapped(key, index, place - 1, place):
            count += 1
            runs[count] = place
    count += 1
    runs[count] = size
    from_key, from_index, to_key, to_index = key, index, spare_key, spare_index
    back = False
    while count > 1:
        for run in range(0, count, 2):
            begin, middle, end = runs[run], runs[run + 1], runs[min(run + 2, count)]
            _merge(from_key, from_index, begin, middle, end, to_key, to_index)
            runs[run >> 1] = begin
        count = (count + 1) >> 1
        runs[count] = size
        from_key, from_index, to_key, to_index = to_key, to_index, from_key, from_index
        back = not back
    if back:
        key[:] = spare_key[:size]
        index[:] = spare_index[:size]


@njit(cache=True, inline="always")
def _swapped(key: np.ndarray, index: np.ndarray, first: int, second: int) -> bool:
    return key[second] < key[first] or (key[second] == key[first] and index[second] < index[first])


@njit(cache=True, inline="always")
def _merge(
    key: np.ndarray, index: np.ndarray, begin: int, middle: int, end: int, to_key: np.ndarray, to_index: np.ndarray
) -> None:
    """Merges [begin, middle) and [middle, end). Unsigned places spare the compiled code the check for negative ones."""
    left, right, place = np.uint64(begin), np.uint64(middle), np.uint64(begin)
    left_end, right_end, step = np.uint64(middle), np.uint64(end), np.uint64(1)
    while left < left_end and right < right_end:
        if _swapped(key, index, left, right):
            to_key[place], to_index[place] = key[right], index[right]
            right += step
        else:
            to_key[place], to_index[place] = key[left], index[left]
            left += step
        place += step
    while left < left_end:
        to_key[place], to_index[place] = key[left], index[left]
        left, place = left + step, place + step
    while right < right_end:
        to_key[place], to_index[place] = key[right], index[right]
        right, place = right + step, place + step
