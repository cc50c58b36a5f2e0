"""The first problem of a refused document, in plain words."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from netsim.foundation.refusal import Refusal, listed, nearest, problem_and_remedy
from netsim.foundation.settings import kind_of, kinds_of, sections_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


M = TypeVar("M", bound=BaseModel)

_MOST_FIELDS = 4
"""Further wrong fields that a complaint names."""
_FIELD = re.compile(r"\S+")
"""The first word of a problem, which names the field."""
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "settings, such as {key: value}",
    "model": "settings, such as {key: value}",
    "path": "a path",
}
"""What is expected, by the first word of an error's type."""


class Complaint(NamedTuple):
    """The first problem that pydantic found.

    Attributes:
        field: Dotted path of the field.
        problem: What is wrong, with the value; further fields that are wrong are named.
        remedy: What the user can do about it; empty if unknown.
        cause: What a check of ours raised; None: the check was one of pydantic's.
    """

    field: str
    problem: str
    remedy: str
    cause: ValueError | None

    @property
    def reason(self) -> str:
        """Problem and remedy."""
        return f"{self.problem}{self.remedy and f'; {self.remedy}'}"


@contextmanager
def complaining(path: Path, remedy: str, place: str = "") -> Iterator[None]:
    """Turns a pydantic error in the block into a `Refusal` of the document's file, at a place in it."""
    try:
        yield
    except ValidationError as error:
        complaint = first_complaint(error)
        raise Refusal(path, f"{place}{complaint.field}", complaint.problem, complaint.remedy or remedy) from error


def validated(document: object, path: Path | str, model: type[M], remedy: str = "correct the value") -> M:
    """A document that a person wrote as a model; the `Refusal` of its file has `remedy` where the finding has none."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error, document, model)
        raise Refusal(path, complaint.field, complaint.problem, complaint.remedy or remedy) from (
            complaint.cause or error
        )


def first_complaint(
    error: ValidationError,
    document: object = None,
    model: type[BaseModel] | None = None,
) -> Complaint:
    """Reduces a pydantic error to its first complaint.

    Args:
        error: What pydantic raised.
        document: What was validated, if a person wrote it: keys are then named as they are written there.
        model: What it was validated as; needed to name the key or the kind that was meant.

    Returns:
        The complaint. Where there is no document, only a check of ours gives it a remedy: that of a whole model says
        `field: problem; remedy` itself.
    """
    details = [(detail["loc"] if document is None else written(detail, document), detail) for detail in error.errors()]
    path, first = details[0]
    about_it = [detail for other, detail in details if other == path]
    further = {other: detail["type"] == "missing" for other, detail in details if path[: len(other)] != other}
    reason, way_out, cause = first["msg"], "", _cause(first)
    shown = _shown(first["input"])
    match first["type"]:
        case "value_error":
            reason, way_out = problem_and_remedy(cause or ValueError(reason.removeprefix("Value error, ")))
            head, colon, rest = reason.partition(": ")
            if colon and _FIELD.fullmatch(head):
                path, reason = (*path, head), rest
            elif isinstance(first["input"], str | int | float) and str(first["input"]) not in reason:
                reason += shown
        case "extra_forbidden":
            reason = unknown_key(first["input"])
        case "missing":
            reason = "is missing"
        case "union_tag_invalid":
            path = (*path, "kind")
            reason = unknown_kind(first.get("ctx", {})["tag"], _kinds(first, model))
        case "union_tag_not_found":
            reason = f"has no kind{shown}"
        case "too_short" | "too_long":
            reason = f"has {first.get('ctx', {})['actual_length'] or 'no'} entries"
        case "model_type" | "model_attributes_type" | "dict_type" if path:
            reason = f"is not a section{shown}"
        case _:
            reason = f"{_plain(reason)}{shown}"
    field = ".".join(str(part) for part in path)
    if not way_out and document is not None:
        way_out = remedy(about_it, field, model) or ""
    if further:
        reason = f"{reason} ({also_wrong(further)})"
    return Complaint(field or "document", reason, way_out, cause)


def unknown_key(value: object) -> str:
    """Problem of a key that a section does not have."""
    return f"is not a known key{_shown(value)}"


def unknown_kind(kind: object, kinds: Iterable[str]) -> str:
    """Problem of a kind that does not exist."""
    return f"{kind!r} is not one of {', '.join(kinds)}"


def _kinds(detail: "ErrorDetails", model: type[BaseModel] | None) -> list[str]:
    """The kinds that a section may have, also those that become another one when it is read."""
    sections = [] if model is None else sections_at(model, detail["loc"])
    kinds = dict.fromkeys(kind for section in sections for kind in kinds_of(section))
    return list(kinds) or listed(detail.get("ctx", {})["expected_tags"])


def _shown(value: object) -> str:
    """A value in parentheses; empty if it is long."""
    return f" ({value!r})" if len(repr(value)) <= 60 else ""


def _plain(message: str) -> str:
    """Rewords pydantic's message about a value, without technical details."""
    message = re.sub(r", unable to .*|, got .*| or instance of .*| or object to .*| for <class .*", "", message)
    message = re.sub(r"a valid (?=[aeiou])", "an ", message).replace("a valid ", "a ").replace("a tuple", "a list")
    message = re.sub(r"^\w+ should ", "must ", message)
    return message.replace("Input is", "is")


def also_wrong(further: Mapping[tuple[int | str, ...], bool]) -> str:
    """Lists further wrong fields in words; the values of `further` show whether each field is missing."""
    names = [".".join(map(str, path)) for path in further]
    shown = names if len(names) <= _MOST_FIELDS + 1 else [*names[:_MOST_FIELDS], f"{len(names) - _MOST_FIELDS} others"]
    return f"also {'missing' if all(further.values()) else 'wrong'}: {', '.join(shown)}"


def written(detail: "ErrorDetails", document: object) -> tuple[int | str, ...]:
    """The path of an error as the document has it, without the kinds and types that pydantic inserts."""
    path = detail["loc"]
    kept = []
    for depth, part in enumerate(path):
        inside: Any = dict(enumerate(document)) if isinstance(document, list | tuple) else document
        present = isinstance(inside, Mapping) and part in inside
        absent = depth == 0 or (depth == len(path) - 1 and detail["type"] == "missing")
        if present or absent:
            kept.append(part)
            document = inside[part] if present else {}
    return tuple(kept)


def _cause(detail: "ErrorDetails") -> ValueError | None:
    """The ValueError that one of this project's checks raised; None: pydantic's own check failed."""
    cause = detail.get("ctx", {}).get("error")
    return cause if isinstance(cause, ValueError) else None


def of_unknown_key(key: object, names: Iterable[str], others: Mapping[str, str]) -> str:
    """Remedy for a key that is not among `names`; `others` has remedies for names of other programs."""
    written = others.get(str(key).lower().replace("-", "_"))
    near = nearest(key, names)
    return f"{written or f'write {near}'}, or remove it" if written or near else "correct its name or remove it"


def remedy(details: "list[ErrorDetails]", field: str, model: type[BaseModel] | None) -> str | None:
    """Remedy for a field, from all errors about it: one for each type that its value might have; None: unknown."""
    first = details[0]
    context = first.get("ctx", {})
    match first["type"]:
        case "missing":
            return "add it"
        case "extra_forbidden":
            *section, key = first["loc"]
            known = [] if model is None else sections_at(model, tuple(section))
            names = [field.alias or name for one in known for name, field in one.model_fields.items()]
            return of_unknown_key(key, names, getattr(model, "other_names", {}))
        case "union_tag_invalid":
            near = nearest(context["tag"], _kinds(first, model))
            return f"use {near}" if near else "use one of them"
        case "union_tag_not_found":
            kinds = [] if model is None else [kind_of(section) for section in sections_at(model, first["loc"])]
            given = first["input"] if isinstance(first["input"], dict) else {}
            settings = [f"kind: {kinds[0] if kinds else 'KIND'}", *(f"{key}: ..." for key in given)]
            return f"give {field}={{{', '.join(settings)}}}"
    if first["type"] in ("float_parsing", "int_parsing") and re.fullmatch(r"-?\d+,\d+", str(first["input"])):
        return f"use {str(first['input']).replace(',', '.')}, with a point"
    wanted = [phrase for phrase in map(_wanted, details) if phrase]
    return f"use {', or '.join(dict.fromkeys(wanted))}" if wanted else None


def _wanted(detail: "ErrorDetails") -> str | None:
    """Words the values that are allowed, by one error."""
    context = detail.get("ctx", {})
    limit = next(iter(context.values()), None)
    match detail["type"]:
        case "greater_than":
            return f"{limit + 1} or more" if isinstance(limit, int) else f"a number above {limit:g}"
        case "greater_than_equal":
            return f"{limit:g} or more"
        case "less_than":
            return f"{limit - 1} or less" if isinstance(limit, int) else f"a number below {limit:g}"
        case "less_than_equal":
            return f"{limit:g} or less"
        case "string_pattern_mismatch":
            return f"text that matches {limit}"
        case "multiple_of":
            return f"a multiple of {limit}"
        case "too_short":
            return f"{context['min_length']} or more"
        case "too_long":
            return f"{context['max_length']} or fewer"
        case "literal_error":
            return nearest(detail["input"], listed(str(limit))) or str(limit).replace("'", "")
    return _TYPES.get(detail["type"].partition("_")[0])
