"""What no document of a user's may hold: endless nesting, and numbers that fit into no register."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section

MOST_LEVELS = 100
MOST_VALUES = 1_000_000
"""Of a document whose parts stand in several places, each of them counted."""
LARGEST = 2**63 - 1
TOO_LARGE = "the number has more than 64 bits"
TOO_DEEP = f"lists and sections are nested more than {MOST_LEVELS} deep"
_LONG = re.compile(r"\d{19}")


def check_document(document: Any) -> None:
    """Refuses a document that a reader could not walk through.

    Args:
        document: What was read: mappings, lists and values; parts may stand in several places, or in themselves.

    Raises:
        ValueError: `field: problem; remedy`, where the field is missing if the whole document is to blame.
    """
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    count = 0
    while waiting:
        value, path = waiting.pop()
        count += 1
        if len(path) > MOST_LEVELS:
            raise ValueError(f"{_head(path)}{TOO_DEEP}; nest less")
        if count > MOST_VALUES:
            raise ValueError(f"it contains more than {MOST_VALUES:,} values; write fewer")
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise ValueError(f"{_head(path)}{TOO_LARGE}; write a smaller one")
        waiting.extend((inner, (*path, key)) for key, inner in _inside(value))


def parse_json(text: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Reads JSON.

    Args:
        text: The whole document.
        parse_constant: What to make of NaN and infinities; as in `json.loads`.

    Raises:
        ValueError: It is no JSON, it is nested too deep, or a whole number has more than 64 bits.
    """
    whole = _whole if _LONG.search(text) else None
    try:
        document = json.loads(text, parse_constant=parse_constant, parse_int=whole)
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


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    match value:
        case dict():
            yield from value.items()
        case list() | tuple() | set():
            yield from enumerate(value)


def _head(path: tuple[Any, ...]) -> str:
    return f"{'.'.join(map(str, path[:4]))}: " if path else ""


class JsonFile(Section):
    """A section that is read from a JSON file, whoever wrote it, and written to one.

    Attributes:
        remedy: what to do about a file that cannot be used.
    """

    remedy: ClassVar[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file.

        Args:
            path: the file.

        Raises:
            Refusal: it is missing or malformed.
        """
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            check_document(document)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
            raise Refusal(path, "file", f"cannot be read ({reason})", cls.remedy) from error
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            found = first_complaint(error, document)
            raise Refusal(path, found.field, found.problem, found.remedy or cls.remedy) from found.cause or error

    def write(self, path: Path) -> None:
        """Writes the file.

        Args:
            path: its place.
        """
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
