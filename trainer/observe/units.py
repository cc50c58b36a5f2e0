"""Figures as a person reads them."""

import math
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_LEVELS = "▁▂▃▄▅▆▇█"
_MISSING = "×"


def scaled(value: float, unit: str) -> str:
    """Three digits and a decimal prefix, such as 1.21 TFLOP/s; KB is 1000 B."""
    power = 0
    while value >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    decimals = 0 if value >= 99.95 or (power == 0 and value == int(value)) else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {_PREFIXES[power]}{unit}"


def duration(seconds: float) -> str:
    """A span of time in the unit that suits it."""
    if seconds >= 60:
        return str(timedelta(seconds=round(seconds)))
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of at most `width` characters; more values are averaged in equal stretches, one not finite is a cross."""
    parts = min(width, len(values))
    edges = [round(index * len(values) / parts) for index in range(parts + 1)] if parts else []
    means = [math.fsum(values[first:last]) / (last - first) for first, last in pairwise(edges)]
    finite = [mean for mean in means if math.isfinite(mean)]
    lowest, highest = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = (highest - lowest) or 1.0
    return "".join(
        _LEVELS[round((mean - lowest) / span * (len(_LEVELS) - 1))] if math.isfinite(mean) else _MISSING
        for mean in means
    )
