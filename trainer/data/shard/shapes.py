"""The shapes of examples that have several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

S = TypeVar("S", bound=tuple[int, ...])


def largest(shapes: Sequence[S]) -> S:
    """The shape of most values, of equal ones the first."""
    return max(shapes, key=math.prod)
