"""The one kind of error a user can cause: it names the file, the field, the value and the remedy."""

import errno
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_MOST_CHARACTERS, _ENDS = 1000, 200
"""Of a part of a message, and what is kept of each end of a longer one."""


_MOST_FIELDS = 4
"""Further wrong fields that a complaint names."""


class InputError(ValueError):
    """Wrong input in a file.

    Args:
        file: The file that is wrong.
        field: Dotted path of the field, or ``line N`` with the field behind it.
        problem: What is wrong, with the value.
        remedy: What the user can do.
    """

    def __init__(self, file: str | Path, field: str, problem: str, remedy: str) -> None:
        self.file = str(file)
        self.field, self.problem, self.remedy = map(_shortened, (field, problem, remedy))
        super().__init__(f"{file}: {self.field}: {self.problem}{self.remedy and f'; {self.remedy}'}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str, str]]:
        return type(self), (self.file, self.field, self.problem, self.remedy)


class LimitError(InputError):
    """A run has reached a limit of its own or the disk's. The input need not be wrong: it is a failure."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While entered, an error that says that there is no space left is about a file or folder that is being written.

    Args:
        path: The file or folder.

    Raises:
        LimitError: There is no space for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"cannot be written ({error.strerror})"
            raise LimitError(path, "output", problem, "make space there and give the same command again") from error
        raise


def _shortened(text: str) -> str:
    """A text whose middle is left out if nobody would read it."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_ENDS]} ... {text[-_ENDS:]}"


def first_error(
    error: ValidationError, file: str | Path, content: object, model: type[BaseModel], place: str = ""
) -> InputError:
    """Turns what pydantic found into one line about its first finding.

    Args:
        error: What pydantic found.
        file: The file that is wrong.
        content: What was validated.
        model: What it was validated as.
        place: What comes before the dotted path, such as ``line 7``.
    """
    findings = error.errors(include_url=False)
    first = findings[0]
    field = _field(first, content)
    problem, remedy = _explain(first, model)
    further = {_field(other, content): other["type"] == "missing" for other in findings}
    further = {name: missing for name, missing in further.items() if not f"{field}.".startswith(f"{name}.")}
    if further:
        problem = f"{problem} ({_also(further)})"
    return InputError(file, f"{place}: {field}" if place else field, problem, remedy)


def _also(further: Mapping[str, bool]) -> str:
    """Further fields that are wrong; the values say whether each is missing."""
    names = list(further)
    shown = names if len(names) <= _MOST_FIELDS + 1 else [*names[:_MOST_FIELDS], f"{len(names) - _MOST_FIELDS} others"]
    return f"also {'missing' if all(further.values()) else 'wrong'}: {', '.join(shown)}"


_ABSENT = object()


def _field(finding: "ErrorDetails", content: object) -> str:
    place = finding["loc"]
    if finding["type"] == "union_tag_invalid":
        place = *place, finding.get("ctx", {})["discriminator"].strip("'")
    return ".".join(_field_path(place, content, finding["type"] == "missing")) or "file"


def _field_path(location: Sequence[int | str], content: object, missing: bool) -> list[str]:
    """The location without the names of alternatives that pydantic adds to it; its end may be `missing`."""
    path = []
    for depth, part in enumerate(location):
        inside = _entry(content, part)
        if inside is not _ABSENT or (missing and depth == len(location) - 1):
            path.append(str(part))
            content = inside
    return path


def _entry(content: object, part: int | str) -> object:
    if isinstance(content, Mapping):
        return content.get(part, _ABSENT)
    if isinstance(content, (list, tuple)) and isinstance(part, int) and part < len(content):
        return content[part]
    return _ABSENT


def _explain(finding: "ErrorDetails", model: type[BaseModel]) -> tuple[str, str]:
    value, context = reprlib.repr(finding["input"]), finding.get("ctx", {})
    match finding["type"]:
        case "missing":
            return "is missing", "add it"
        case "extra_forbidden":
            *section, key = finding["loc"]
            near = nearest(key, keys_at(model, section))
            return (
                f"is not a known key ({value})",
                f"write {near}, or remove it" if near else "remove it or check its spelling",
            )
        case "value_error":
            problem, _, remedy = finding["msg"].removeprefix("Value error, ").partition("; ")
            return (f"{problem} ({value})" if isinstance(finding["input"], (str, int, float)) else problem), remedy
        case "union_tag_invalid":
            kinds = kinds_at(model, finding["loc"])
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
    """What pydantic says of a value, without what a person need not know."""
    message = re.sub(r", unable to .*|, got .*| or instance of .*| or object to .*", "", message)
    message = re.sub(r"a valid (?=[aeiou])", "an ", message).replace("a valid ", "a ").replace("a tuple", "a list")
    return message.replace("Input should be", "it must be").replace("Input", "it")


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The name that a misspelt one is nearest to; None: none is near."""
    return next(iter(get_close_matches(str(name), list(names), n=1)), None)


def listed(names: str) -> list[str]:
    """The names in a list such as ``'a', 'b' or 'c'``."""
    return names.replace(" or ", ", ").replace("'", "").split(", ")


def keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys that may stand in a section.

    Args:
        model: What the document is.
        location: Keys, numbers of a list, and the kinds that pydantic puts in.
    """
    found = _sections_at(model, location)
    return [field.alias or name for section in found for name, field in section.model_fields.items()]


def kinds_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The kinds that a section may have, those included that are replaced by others when they are read.

    Args:
        model: What the document is.
        location: As for `keys_at`.
    """
    return list(dict.fromkeys(kind for section in _sections_at(model, location) for kind in _kinds(section)))


def _sections_at(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    found = [model]
    for part in location:
        chosen = [section for section in found if part in _kinds(section)]
        inner = [
            below
            for section in found
            for name, field in section.model_fields.items()
            if part in (name, field.alias) and not chosen
            for below in _sections_of(field)
        ]
        found = chosen or inner or (found if isinstance(part, int) else [])
    return found


def _sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The models that the value of a field may be, in a file or when it has been read."""
    written = [part.json_schema_input_type for part in field.metadata if isinstance(part, BeforeValidator)]
    return list(dict.fromkeys(section for part in (field.annotation, *written) for section in _sections(part)))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of a type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _kinds(section: type[BaseModel]) -> Sequence[str]:
    """What `kind` may be in a section."""
    field = section.model_fields.get("kind")
    return () if field is None else get_args(field.annotation)
