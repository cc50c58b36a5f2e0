"""Sizes of memories as a person writes and reads them."""

import math
import re

_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def parse_bytes(text: str, field: str) -> int:
    """Reads a size such as ``80GB`` (10^9 bytes) or ``64GiB`` (2^30 bytes), 1 or more."""
    found = _SIZE.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{field}: {text!r} is not a size; use a number with a unit, such as 80GB or 64GiB")
    size = math.floor(float(found[1]) * _UNITS[found[2]])
    if size < 1:
        raise ValueError(f"{field}: {text!r} is not an amount of memory; use for example 80GB")
    return size
