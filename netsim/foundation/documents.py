"""Reads JSON and YAML of users, and refuses endless nesting and numbers of more than 64 bits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from netsim.foundation.complaint import M, validated
from netsim.foundation.files import reading, write_json
from netsim.foundation.refusal import Refusal, problem_and_remedy
from netsim.foundation.settings import Section
from netsim.foundation.shipped import located, nearest

MOST_LEVELS = 100
MOST_VALUES = 1_000_000
"""Most values of a document; a part that stands in several places counts each time."""
LARGEST = 2**63 - 1
MISTAGGED = (AttributeError, KeyError, IndexError, TypeError)
"""What PyYAML raises, besides its own errors, for a value that does not match its tag, such as !!bool x."""
TOO_LARGE = "the number has more than 64 bits"
TOO_DEEP = f"lists and sections are nested more than {MOST_LEVELS} deep"
_LONG = re.compile(r"\d{19}")


def check_document(document: Any) -> None:
    """Refuses, without a file, a document with endless nesting, too many values or numbers of more than 64 bits."""
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
    """Reads JSON that is neither too deep nor has whole numbers of more than 64 bits; ValueError otherwise."""
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


def read_json(path: Path, remedy: str, *, absent: str = "", parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Reads a JSON file, or refuses it; `absent` is the remedy for an unreadable file, by default `remedy`."""
    with reading(path, absent or remedy):
        content = path.read_bytes()
    try:
        return parse_json(content.decode("utf-8"), parse_constant)
    except ValueError as error:
        raise Refusal(path, "document", f"is not JSON ({error})", remedy) from error


def _whole(text: str) -> int:
    """Reads a whole number of JSON, signed or unsigned; ValueError beyond 64 bits."""
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
    """Refuses a key that is written twice, where YAML would silently keep the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping and refuses repeated keys; keys that are merged into it later do not count."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                problem = f"{key.value} is written twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            keys.add(key.value)
        return node


def read_yaml(path: Path, wanted: str) -> Any:
    """Reads a YAML file; the remedy for a malformed file asks for what is `wanted`."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", "is not UTF-8 text", f"save it as UTF-8, or give {wanted}") from error
    except (yaml.YAMLError, ValueError, RecursionError, *MISTAGGED) as error:
        raise _unreadable(path, error) from error
    try:
        check_document(document)
    except Refusal as error:
        raise Refusal(path, "document", *problem_and_remedy(error)) from error
    return document


def read_shipped(path: Path, content: str, folder: str, *others: str) -> Any:
    """Reads a YAML file, or one by its name in configs/`folder` or in `others`; messages call it `content`."""
    path = located(path, folder, *others)
    with reading(path, f"give the path of {content}, or the name of one in configs/{folder}: {nearest(path, folder)}"):
        return read_yaml(path, f"{content} such as those in configs/{folder}")


def check_mapping(document: object, path: Path | str, remedy: str) -> Mapping[str, Any]:
    """The content of a file, which must be a mapping."""
    if isinstance(document, Mapping):
        return document
    problem = "is empty" if document is None else "is a list" if isinstance(document, list) else "is a single value"
    raise Refusal(path, "document", problem, remedy)


def _unreadable(path: Path, error: Exception) -> Refusal:
    """The refusal of a YAML file, by what PyYAML raised."""
    match error:
        case yaml.YAMLError():
            mark = getattr(error, "problem_mark", None)
            problem = syntax_problem(getattr(error, "problem", None) or str(error))
            place = f"line {mark.line + 1}" if mark else "document"
            return Refusal(path, place, f"is not YAML ({problem})", "correct the syntax")
        case ValueError():
            return Refusal(path, "document", f"contains an impossible date ({error})", "quote it")
        case RecursionError():
            return Refusal(path, "document", TOO_DEEP, "nest less")
    return Refusal(path, "document", "contains a value that does not fit its YAML tag", "leave the tag out")


def parse_yaml(text: str) -> Any:
    """Reads a YAML value of the command line; the ValueError of a malformed one says why."""
    try:
        value = yaml.load(text, UniqueKeys)
    except (yaml.YAMLError, *MISTAGGED) as error:
        raise ValueError(syntax_problem(getattr(error, "problem", None) or " ".join(str(error).split()))) from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    check_document(value)
    return value


def syntax_problem(problem: str) -> str:
    """Words a syntax error of PyYAML plainly."""
    if "'\\t'" in problem:
        return "there is a tab; indent with spaces"
    return {
        "mapping values are not allowed here": "a colon is missing before this one, or the indentation is wrong",
        "could not find expected ':'": "a key has no colon behind it",
    }.get(problem, problem)


def read_section(path: Path, content: str, folder: str, model: type[M], remedy: str) -> M:
    """A whole YAML file, found as by `read_shipped`, as one section; `remedy` is for a file that is no mapping."""
    return validated(check_mapping(read_shipped(path, content, folder), path, remedy), path, model)


class JsonFile(Section):
    """A section that is read from a JSON file, whoever wrote it, and written to one.

    Attributes:
        remedy: what to do about a file that cannot be used.
    """

    remedy: ClassVar[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a file."""
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
            check_document(document)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is not JSON: {error}"
            raise Refusal(path, "file", f"cannot be read ({reason})", cls.remedy) from error
        return validated(document, path, cls, cls.remedy)

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))
