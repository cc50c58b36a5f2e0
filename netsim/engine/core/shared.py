"""Records and named numbers that the core and Python share, read from the headers that describe them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "int64_t": np.int64,
    "int32_t": np.int32,
    "uint8_t": np.uint8,
    "uint64_t": np.uint64,
    "double": np.float64,
}
_LINE_BYTES = 64


@cache
def _header() -> str:
    """`records.hpp` and the headers of `congestion`, in the order of their names, without comments."""
    folder = Path(__file__).parent
    paths = folder / "records.hpp", *sorted((folder / "congestion").glob("*.hpp"))
    return "".join(re.sub(r"//.*", "", path.read_text(encoding="utf-8")) for path in paths)


def records_of_control(control: str) -> tuple[np.dtype, np.dtype]:
    """Types of a congestion control's structs for its settings and the state of a flow; uint8 for a missing one."""
    settings, state = (
        record(name) if f"struct {name} {{" in _header() else np.dtype(np.uint8)
        for name in (f"{control}Settings", f"{control}State")
    )
    return settings, state


@cache
def record(name: str) -> np.dtype:
    """The NumPy type of a struct of the core: the same fields at the same places.

    Args:
        name: Name of the struct in `records.hpp`, or in the header of a congestion control.

    Raises:
        LookupError: There is no such struct.
    """
    match = re.search(rf"struct (alignas\(64\) )?{name} {{(.*?)}};", _header(), re.DOTALL)
    if match is None:
        raise LookupError(name)
    aligned, body = match.groups()
    fields = []
    for kind, names in re.findall(r"(\w+) ([^;]+);", body):
        for field, size in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            fields.append((field, np.dtype((_TYPES[kind], int(size))) if size else np.dtype(_TYPES[kind])))
    packed = np.dtype(fields, align=True)
    if not aligned:
        return packed
    lines = -(-packed.itemsize // _LINE_BYTES)
    columns = [packed.fields[field] for field in packed.names]  # type: ignore[index,union-attr]
    layout: Any = {
        "names": list(packed.names or ()),
        "formats": [column[0] for column in columns],
        "offsets": [column[1] for column in columns],
        "itemsize": lines * _LINE_BYTES,
    }
    return np.dtype(layout)


@cache
def names(enumeration: str) -> tuple[str, ...]:
    """The names of an enumeration of the core, by value from 0 on.

    Args:
        enumeration: Its name in `records.hpp`.

    Raises:
        LookupError: There is no such enumeration.
    """
    match = re.search(rf"enum {enumeration} : int32_t {{(.*?)}}", _header(), re.DOTALL)
    if match is None:
        raise LookupError(enumeration)
    return tuple(re.findall(r"\w+", match[1]))


@cache
def number(name: str) -> int:
    """The value of a name of an enumeration, or of a constant.

    Args:
        name: The name in `records.hpp`.

    Raises:
        LookupError: There is no such name.
    """
    for enumeration in re.findall(r"enum (\w+) : int32_t", _header()):
        if name in names(enumeration):
            return names(enumeration).index(name)
    match = re.search(rf"constexpr int64_t [^;]*\b{name} = (-?\d+)", _header())
    if match is None:
        raise LookupError(name)
    return int(match[1])
