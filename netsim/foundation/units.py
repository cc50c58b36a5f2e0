"""Quantities as typed strings, integers inside: bits per second, bytes, picoseconds; and how pages write them."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

PICOSECONDS_PER_SECOND = 10**12

MOST = 10**18
"""Largest quantity in bits per second, bytes or picoseconds, so that sums of some fit into 64 bits."""

_RATES = {"bps": 1, "kbps": 10**3, "Mbps": 10**6, "Gbps": 10**9, "Tbps": 10**12}
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": 10**12}
_SIZE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1, "B"))
_TIME_UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([A-Za-z]+)\s*")


def _parse(value: object, units: dict[str, int], quantity: str, example: str) -> int:
    remedy = f"write a number and one of {', '.join(units)}, such as {example}"
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"{quantity} needs a unit; {remedy}")
    number = Decimal(match[1])
    if number.adjusted() > MOST.bit_length() or number * units[match[2]] > MOST:
        raise ValueError(f"{quantity} is too large; write at most {MOST:,} {next(iter(units))}")
    exact = number * units[match[2]]
    if exact != int(exact):
        raise ValueError(f"{quantity} is not a whole number of {next(iter(units))}; {remedy}")
    return int(exact)


def _format(value: int, units: dict[str, int]) -> str:
    """Writes a value in the largest decimal unit that leaves a number of at least 1 with at most three places."""
    name, scale = next(iter(units.items()))
    for larger, size in units.items():
        if "i" not in larger and value >= size and 1000 * value % size == 0:
            name, scale = larger, size
    return f"{Decimal(value) / scale:f}{name}"


def parse_rate(value: object) -> int:
    """Reads a rate such as ``100Gbps`` as bits per second."""
    return _parse(value, _RATES, "a rate", "100Gbps")


def parse_size(value: object) -> int:
    """Reads a size such as ``4.096MB`` or ``64KiB`` as bytes; KB = 1000 B, KiB = 1024 B."""
    return _parse(value, _SIZES, "a size", "4000B")


def parse_time(value: object) -> int:
    """Reads a duration such as ``500ns`` as picoseconds."""
    return _parse(value, _TIMES, "a time", "500ns")


def format_rate(bits_per_second: int) -> str:
    """Writes a rate in the largest unit that keeps it short, the inverse of `parse_rate`."""
    return _format(bits_per_second, _RATES)


def format_size(size_bytes: int) -> str:
    """Writes a size in the largest decimal unit that keeps it short, the inverse of `parse_size`."""
    return _format(size_bytes, _SIZES)


def format_time(time_ps: int) -> str:
    """Writes a duration in the largest unit that keeps it short, the inverse of `parse_time`."""
    return _format(time_ps, _TIMES)


def _typed(
    parse: Callable[[object], int], write: Callable[[int], str], units: dict[str, int], quantity: str, example: str
) -> tuple[object, ...]:
    schema = {
        "type": "string",
        "pattern": rf"^\s*[0-9.eE]+\s*({'|'.join(units)})\s*$",
        "x-values": f"{quantity} such as {example}",
    }
    return BeforeValidator(parse), PlainSerializer(write), WithJsonSchema(schema)


Rate = Annotated[int, *_typed(parse_rate, format_rate, _RATES, "rate", "100Gbps")]
Size = Annotated[int, *_typed(parse_size, format_size, _SIZES, "size", "4000B")]
Duration = Annotated[int, *_typed(parse_time, format_time, _TIMES, "duration", "500ns")]


def service_ps(size_bytes: int, rate_bps: int) -> int:
    """Time a link of `rate_bps` is busy with `size_bytes`: ceil(8 * bytes * 1e12 / rate) picoseconds."""
    return -(-8 * size_bytes * PICOSECONDS_PER_SECOND // rate_bps)


def to_ns(time_ps: int) -> float:
    """Picoseconds as nanoseconds with three decimal places."""
    return time_ps / 1000


def split_bytes(total: int, parts: int) -> list[int]:
    """Cuts `total` bytes into `parts` that differ by at most one byte, larger ones first; the sum is kept."""
    each, longer = divmod(total, parts)
    return [each + 1] * longer + [each] * (parts - longer)


def time_unit(largest_us: float) -> tuple[float, str]:
    """The unit that suits times up to `largest_us`: its length in microseconds, and its name."""
    return next((scale, unit) for scale, unit in _TIME_UNITS if largest_us >= scale or scale == 1)


def in_unit(time_us: float, digits: int = 4) -> str:
    """A time with `digits` digits, in the unit that suits it."""
    scale, unit = time_unit(time_us)
    return f"{rounded(time_us / scale, digits)} {unit}"


def rounded(value: float, digits: int) -> str:
    """A positive number with `digits` significant digits, zeros at the end included."""
    return f"{value:#.{digits}g}".rstrip(".")


def size_in_unit(size_bytes: int) -> str:
    """A number of bytes with three digits, such as ``4.19 MB``."""
    scale, unit = next((scale, unit) for scale, unit in _SIZE_UNITS if size_bytes >= scale or scale == 1)
    return f"{size_bytes / scale:.3g} {unit}"


def signed(share: float) -> str:
    """A share as a percentage with its sign."""
    return f"{100 * share:+.1f} %".replace("-0.0", "+0.0")


def behind(slower: float, faster: float) -> str:
    """How much longer one of two positive times is, such as ``20 % longer than`` or ``2.4 times as long as``."""
    if slower >= 2 * faster:
        return f"{slower / faster:.1f} times as long as"
    percent = 100 * (slower / faster - 1)
    return f"{percent:.{0 if percent >= 10 else 1}f} % longer than"


def spread(times_us: Sequence[float]) -> str:
    """Mean, least and most of some times in microseconds; the time itself if there is one."""
    mean = f"{microseconds(sum(times_us) / len(times_us))} µs"
    return f"{mean} [{microseconds(min(times_us))}, {microseconds(max(times_us))}]" if len(times_us) > 1 else mean


def microseconds(value: float) -> str:
    """A number with one decimal place, and commas between thousands."""
    return f"{value:,.1f}"
