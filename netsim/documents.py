"""What no document of a user's may hold: endless nesting, and numbers that fit into no register."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netsim.errors import InputError

MOST_LEVELS = 100
MOST_VALUES = 1_000_000
"""Of a document whose parts stand in several places, each of them counted."""
LARGEST = 2**63 - 1
TOO_LARGE = "the number has more than 64 bits"
TOO_DEEP = f"lists and sections are nested more than {MOST_LEVELS} deep"
_LONG = re.compile(r"\d{19}")


def check_document(file: str | Path, document: object, place: str = "") -> None:
    """Refuses a document that a reader could not walk through.

    Args:
        file: What it was read from.
        document: Mappings, lists and values; parts may stand in several places, or in themselves.
        place: What comes before the dotted path of a field, such as the key that a command line gives a value to.

    Raises:
        InputError: It is nested too deep, or a whole number has more than 64 bits.
    """
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    count = 0
    while waiting:
        value, path = waiting.pop()
        field = ".".join(str(part) for part in (place, *path[:4]) if part != "") or "file"
        count += 1
        if len(path) > MOST_LEVELS:
            raise InputError(file, field, TOO_DEEP, "nest less")
        if count > MOST_VALUES:
            raise InputError(file, place or "file", f"it contains more than {MOST_VALUES:,} values", "write fewer")
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise InputError(file, field, TOO_LARGE, "write a smaller one")
        waiting.extend((inner, (*path, key)) for key, inner in _inside(value))


def parse_json(text: str) -> object:
    """Reads JSON.

    Raises:
        ValueError: It is no JSON, it is nested too deep, or a whole number has more than 64 bits.
    """
    whole = _whole if _LONG.search(text) else None
    try:
        document = json.loads(text, parse_int=whole)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    level = [document]
    for _ in range(MOST_LEVELS):
        level = [inner for value in level for _, inner in _inside(value) if isinstance(inner, dict | list)]
        if not level:
            return document
    raise ValueError(TOO_DEEP)


def _whole(text: str) -> int:
    """A whole number of JSON, with a sign or without."""
    number = int(text)
    if not -LARGEST - 1 <= number < 2**64:
        raise ValueError(TOO_LARGE)
    return number


def _inside(value: object) -> Iterator[tuple[Any, Any]]:
    match value:
        case Mapping():
            yield from value.items()
        case list() | tuple() | set():
            yield from enumerate(value)
