"""Shapes that pictures of different proportions are brought to, none of them cut more than it must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated

import numpy as np
from pydantic import Field, PositiveInt

from trainer.data.picture import opened_picture

THREADS = 8
"""That read the sizes of pictures, which is waiting for files more than computing."""
WIDEST = 2.0
"""Proportion of the widest shape that is proposed, and inverse of that of the tallest."""
ORIENTATION, UPRIGHT = 0x0112, 4
"""Tag of the orientation of a photograph, and the last of those that leave its sides what they are."""

Opening = Path | Callable[[], Path | IO[bytes]]
Shape = tuple[PositiveInt, PositiveInt]
Buckets = Annotated[tuple[Shape, ...] | None, Field(exclude_if=lambda buckets: buckets is None)]
"""(height, width) of each; None is not written: runs from before there were any keep their identity."""


def buckets_around(num: int, size: int) -> tuple[tuple[int, int], ...]:
    """At most `num` shapes of about as many pixels as a square has, and no more, from upright 1 : 2 to lying 2 : 1.

    Sides are multiples of an eighth of `size`. Returns (height, width) of each proportion once, the tallest first.
    """
    unit = max(1, size // 8)
    spread = [0.0] if num == 1 else [1 - 2 * number / (num - 1) for number in range(num)]
    found: dict[float, tuple[int, int]] = {}
    for one in spread:
        longer = max(unit, round(size * WIDEST ** abs(one / 2) / unit) * unit)
        shorter = max(unit, size * size // longer // unit * unit)
        height, width = (longer, shorter) if one > 0 else (shorter, longer)
        found.setdefault(height / width, (height, width))
    return tuple(found.values())


def check_buckets_differ(buckets: Sequence[tuple[int, int]]) -> None:
    """Refuses, with a ValueError, no shapes and two shapes of the same proportions."""
    if not buckets:
        raise ValueError("buckets: there are none; give shapes such as [[32, 32], [24, 40]], or leave them out")
    proportions: dict[tuple[int, int], tuple[int, int]] = {}
    for height, width in buckets:
        common = math.gcd(height, width)
        other = proportions.setdefault((height // common, width // common), (height, width))
        if other != (height, width) or list(buckets).count(other) > 1:
            raise ValueError(
                f"buckets: {list(other)} and {[height, width]} have the same proportions; give each proportion once"
            )


def side_of(buckets: Sequence[object]) -> int | None:
    """Pixels a side of a square as large as the largest shape; None for a user's input that is no shapes."""
    areas = [
        math.prod(one)
        for one in buckets
        if isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(side, int) and side > 0 for side in one)
    ]
    return math.isqrt(max(areas)) if areas else None


def nearest_buckets(files: Sequence[Opening], buckets: Sequence[tuple[int, int]]) -> list[int]:
    """For each picture the number of the shape whose proportions are nearest; only heads of files are read.

    A file that is no picture counts as a square, until its turn comes.
    """
    with ThreadPoolExecutor(THREADS) as threads:
        found = np.array(list(threads.map(_log_proportion, files)))
    wanted = np.log([height / width for height, width in buckets])
    return np.abs(np.nan_to_num(found)[:, None] - wanted).argmin(axis=1).tolist()


def _log_proportion(file: Opening) -> float:
    """Logarithm of height by width, as the picture stands upright."""
    try:
        with opened_picture(file() if callable(file) else file) as picture:
            width, height = picture.size
            if picture.getexif().get(ORIENTATION, 1) > UPRIGHT:
                width, height = height, width
        return math.log(height / width)
    except ValueError:
        return math.nan
