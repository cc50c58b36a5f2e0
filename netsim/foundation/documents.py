"""What no document of a user's may hold: endless nesting, and numbers that fit into no register."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import ValidationError

from netsim.foundation.complaint import first_complaint
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal, problem_and_remedy
from netsim.foundation.settings import Section

MOST_LEVELS = 100
MOST_VALUES = 1_000_000
"""Of a document whose parts stand in several places, each of them counted."""
LARGEST = 2**63 - 1
MISTAGGED = (AttributeError, KeyError, IndexError, TypeError)
"""What PyYAML raises besides its own errors where a value is not what its tag says, such as !!bool x."""
TOO_LARGE = "the number has more than 64 bits"
TOO_DEEP = f"lists and sections are nested more than {MOST_LEVELS} deep"
_LONG = re.compile(r"\d{19}")


def check_document(document: Any) -> None:
    """Refuses a document that a reader could not walk through.

    Args:
        document: What was read: mappings, lists and values; parts may stand in several places, or in themselves.

    Raises:
        Refusal: Without a file, and without a field if the whole document is to blame.
    """
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(document, ())]
    count = 0
    while waiting:
        value, path = waiting.pop()
        count += 1
        if len(path) > MOST_LEVELS:
            raise Refusal("", _dotted(path), TOO_DEEP, "nest less")
        if count > MOST_VALUES:
            raise Refusal("", "", f"it contains more than {MOST_VALUES:,} values", "write fewer")
        if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
            raise Refusal("", _dotted(path), TOO_LARGE, "write a smaller one")
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


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path[:4]))


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is written twice, where YAML would silently keep the last one.

    Attributes:
        twice: what is said of such a key.
    """

    twice: ClassVar[str] = "{} is written twice"

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See yaml.SafeLoader; what is merged into a mapping later on does not stand twice in it."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, self.twice.format(key.value), key.start_mark)
            keys.add(key.value)
        return node


def read_yaml(path: Path, wanted: str) -> Any:
    """Reads a YAML file of whatever is in it.

    Args:
        path: the file.
        wanted: what to give in its place, for what is said of it.

    Raises:
        OSError: it cannot be read.
        Refusal: it is malformed.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", "is not UTF-8 text", f"save it as UTF-8, or give {wanted}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "document"
        raise Refusal(
            path,
            where,
            f"is not YAML ({syntax_problem(getattr(error, 'problem', None) or str(error))})",
            "correct the syntax",
        ) from error
    except ValueError as error:
        raise Refusal(path, "document", f"contains an impossible date ({error})", "quote it") from error
    except MISTAGGED as error:
        raise Refusal(
            path, "document", "contains a value that does not fit its YAML tag", "leave the tag out"
        ) from error
    except RecursionError as error:
        raise Refusal(path, "document", TOO_DEEP, "nest less") from error
    try:
        check_document(document)
    except Refusal as error:
        raise Refusal(path, "document", *problem_and_remedy(error)) from error
    return document


def parse_yaml(text: str) -> Any:
    """Reads YAML of the command line.

    Args:
        text: the whole value.

    Raises:
        Refusal: it contains what no setting takes.
        ValueError: it is malformed; the message says why.
    """
    try:
        value = yaml.load(text, UniqueKeys)
    except (yaml.YAMLError, *MISTAGGED) as error:
        raise ValueError(syntax_problem(getattr(error, "problem", None) or " ".join(str(error).split()))) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    check_document(value)
    return value


def syntax_problem(problem: str) -> str:
    """What PyYAML found, in the words of a person."""
    if "'\\t'" in problem:
        return "there is a tab; indent with spaces"
    return {
        "mapping values are not allowed here": "a colon is missing before this one, or the indentation is wrong",
        "could not find expected ':'": "a key has no colon behind it",
    }.get(problem, problem)


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
