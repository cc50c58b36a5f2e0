"""Lines and tables of text that users write, in UTF-8."""

import re
from collections.abc import Sequence
from pathlib import Path

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal

MOST = 2**62
"""Upper limit of numbers in files, so that sums of bytes and of picoseconds fit into 64 bits."""

_WHOLE = re.compile(r"[0-9]{1,19}")


def read_lines(path: Path, content: str) -> list[str]:
    """The lines of a text file in UTF-8, without their ends; messages call it `content`."""
    remedy = f"give {content}"
    try:
        with reading(path, remedy):
            text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal(path, "file", "is not text", remedy) from None
    if "\0" in text:
        raise Refusal(path, "file", "is not text", remedy)
    if not text.strip():
        raise Refusal(path, "file", "is empty", remedy)
    return [line.removesuffix("\r") for line in text.split("\n")]


def read_header(path: Path, line: str, columns: Sequence[str], remedy: str) -> list[str]:
    """Returns the names of a table's columns; each of `columns` must occur exactly once."""
    header = [name.strip() for name in line.split(",")]
    for name in columns:
        if header.count(name) != 1:
            raise Refusal(path, "line 1", f"column {name} occurs {header.count(name)} times", remedy)
    return header


def read_row(path: Path, number: int, header: Sequence[str], line: str, remedy: str) -> dict[str, str]:
    """The cells of a table's line, by column."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(header):
        raise Refusal(path, f"line {number}", f"has {len(cells)} cells instead of {len(header)}", remedy)
    return dict(zip(header, cells, strict=True))


def whole_number(path: Path, field: str, text: str, least: int = 0) -> int:
    """A decimal integer in [least, 2**62); messages name line and column by `field`."""
    if not _WHOLE.fullmatch(text) or not least <= int(text) < MOST:
        raise Refusal(
            path, field, f"is not a whole number ({text!r:.40})", f"write digits, from {least} to below 2**62"
        )
    return int(text)
