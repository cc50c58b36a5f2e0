"""Reads the user's files, as YAML sections or lines of text. Words errors of wrong input and of runs at a limit."""

import errno
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError, model_validator

from netsim.foundation.complaint import also_wrong, written
from netsim.foundation.documents import UNREADABLE, UniqueKeys, check_document, unreadable
from netsim.foundation.refusal import Refusal, listed, nearest
from netsim.foundation.settings import kinds_of, sections_at, takes_numbers_alone
from netsim.foundation.shipped import located
from netsim.foundation.shipped import nearest as nearest_shipped

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Section(BaseModel, extra="forbid", frozen=True):
    """Base of every part of a scenario."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_is_a_number(cls, document: Any) -> Any:
        """Refuses true for a number and 1 for true, which pydantic converts. YAML takes yes and on for true.

        Quantities, which are text with a unit, check their values themselves.
        """
        for name, value in document.items() if isinstance(document, dict) else ():
            field = cls.model_fields.get(name)
            if field is None:
                continue
            is_quantity = any(isinstance(part, BeforeValidator) for part in field.metadata)
            if isinstance(value, bool) and not is_quantity and takes_numbers_alone(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}, not a number; write a number")
            if field.annotation is bool and not isinstance(value, bool):
                raise ValueError(f"{name} is {reprlib.repr(value)}, neither true nor false; write true or false")
        return document


class _Loader(UniqueKeys):
    twice: ClassVar[str] = "the key {} occurs twice"


def load_yaml(path: Path, content: str, folder: str | None = None) -> object:
    """Reads a YAML file, or a shipped one by its name in `folder`, by default the plural of `content`'s last word."""
    folder = folder or f"{content.split()[-1]}s"
    path = located(path, folder)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        remedy = f"give the path of {content}, or the name of one in configs/{folder}: {nearest_shipped(path, folder)}"
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise Refusal(path, "file", "is not text", f"give the path of {content} in YAML") from None
    except UNREADABLE as error:
        raise unreadable(path, error, "file", "correct the line") from None
    try:
        check_document(document)
    except Refusal as found:
        raise Refusal(path, found.field or "file", found.problem, found.remedy) from None
    return document


def check_mapping(document: object, file: Path | str, remedy: str) -> Mapping[str, Any]:
    """The content of a file, which must be a mapping."""
    if not isinstance(document, Mapping):
        raise Refusal(file, "file", "is not a mapping of keys to values", remedy)
    return document


def first_line(kind: str) -> str:
    """Remedy for a file that is no mapping, by the kind in its format."""
    return f"write keys and values, format: flowfabric.{kind}/1 first"


M = TypeVar("M", bound=BaseModel)


def read_section(path: Path, content: str, kind: type[M], remedy: str) -> M:
    """Reads a whole YAML file as one section; `remedy` is the advice where the file is no mapping."""
    return validated(check_mapping(load_yaml(path, content), path, remedy), path, kind)


def validated(document: object, file: str | Path, kind: type[M]) -> M:
    """The content of a file as the model `kind`, or the refusal of its first wrong field."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise first_refusal(error, file, document, kind) from None


MOST = 2**62
"""Numbers in files stay below this, so that sums of bytes and of picoseconds keep to 64 bits."""

_WHOLE = re.compile(r"[0-9]{1,19}")


def read_lines(path: Path, content: str) -> list[str]:
    """The lines of a text file in UTF-8, without their ends; messages call it `content`."""
    remedy = f"give {content}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from None
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


class LimitError(Refusal):
    """A run has reached one of its limits, or the disk is full. It counts as a failure, not as wrong input."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of a full disk or quota in the block into a `LimitError` about `path`, which is being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"cannot be written ({error.strerror})"
            raise LimitError(path, "output", problem, "make space there and give the same command again") from error
        raise


def first_refusal(
    error: ValidationError, file: str | Path, content: object, model: type[BaseModel], place: str = ""
) -> Refusal:
    """Turns pydantic's first finding into one line; `place` comes before the dotted path, such as ``line 7``."""
    findings = error.errors(include_url=False)
    paths = [_path(finding, content) for finding in findings]
    problem, remedy = _explain(findings[0], model)
    further = {
        path: finding["type"] == "missing"
        for path, finding in zip(paths, findings, strict=True)
        if paths[0][: len(path)] != path
    }
    if further:
        problem = f"{problem} ({also_wrong(further)})"
    field = ".".join(map(str, paths[0])) or "file"
    return Refusal(file, f"{place}: {field}" if place else field, problem, remedy)


def _path(finding: "ErrorDetails", content: object) -> tuple[int | str, ...]:
    if finding["type"] == "union_tag_invalid":
        key = finding.get("ctx", {})["discriminator"].strip("'")
        finding = {**finding, "loc": (*finding["loc"], key)}
    return written(finding, content)


def _explain(finding: "ErrorDetails", model: type[BaseModel]) -> tuple[str, str]:
    value, context = reprlib.repr(finding["input"]), finding.get("ctx", {})
    match finding["type"]:
        case "missing":
            return "is missing", "add it"
        case "extra_forbidden":
            *place, key = finding["loc"]
            fields = [field for section in sections_at(model, place) for field in section.model_fields.items()]
            near = nearest(key, (field.alias or name for name, field in fields))
            return (
                f"is not a known key ({value})",
                f"write {near}, or remove it" if near else "remove it or check its spelling",
            )
        case "value_error":
            problem, _, remedy = finding["msg"].removeprefix("Value error, ").partition("; ")
            return (f"{problem} ({value})" if isinstance(finding["input"], (str, int, float)) else problem), remedy
        case "union_tag_invalid":
            sections = sections_at(model, finding["loc"])
            kinds = list(dict.fromkeys(kind for section in sections for kind in kinds_of(section)))
            near = nearest(context["tag"], kinds)
            remedy = f"use {near}" if near else f"use one of {', '.join(kinds)}"
            return f"has a wrong value ({context['tag']!r})", remedy
        case "too_short" if "field_type" in context:
            return f"has {context['actual_length'] or 'no'} entries", f"give at least {context['min_length']}"
        case "literal_error":
            near = nearest(finding["input"], listed(context["expected"]))
        case _:
            near = None
    remedy = f"use {near}" if near else _plain(finding["msg"])
    return f"has a wrong value ({value})", remedy


def _plain(message: str) -> str:
    """Rewords pydantic's message about a value, without technical details."""
    message = re.sub(r", unable to .*|, got .*| or instance of .*| or object to .*", "", message)
    message = re.sub(r"a valid (?=[aeiou])", "an ", message).replace("a valid ", "a ").replace("a tuple", "a list")
    return message.replace("Input should be", "it must be").replace("Input", "it")
