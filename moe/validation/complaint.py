"""The first complaint of a refused document, in the words of a person."""

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from moe.files import problem_and_remedy
from moe.validation.remedy import remedy

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Complaint(NamedTuple):
    """What pydantic found wrong first.

    Attributes:
        field: Dotted path of the field.
        problem: What is wrong, with the value; complaints about further fields are only counted.
        remedy: What the user can do about it; empty where nobody knows.
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


def first_complaint(
    error: ValidationError,
    document: object = None,
    model: type[BaseModel] | None = None,
) -> Complaint:
    """Boil a pydantic error down to its first complaint.

    Args:
        error: What pydantic raised.
        document: What was validated, if a person wrote it: keys are then named as they stand there.
        model: What it was validated as; needed to name the key or the kind that was meant.

    Returns:
        The complaint. Where there is no document, only a check of ours gives it a remedy: that of a whole model says
        `field: problem; remedy` itself.
    """
    details = [(_written(detail, document), detail) for detail in error.errors()]
    path, first = details[0]
    about_it = [detail for other, detail in details if other == path]
    further = len({other for other, _ in details}) - 1
    reason, way_out, cause = first["msg"], "", _cause(first)
    shown = f" ({first['input']!r})" if len(repr(first["input"])) <= 60 else ""
    match first["type"]:
        case "value_error":
            reason, way_out = problem_and_remedy(cause or ValueError(reason.removeprefix("Value error, ")))
            head, colon, rest = reason.partition(": ")
            path, reason = ((*path, head), rest) if colon else (path, head)
        case "extra_forbidden":
            reason = f"is not permitted here{shown}"
        case "missing":
            reason = "is required but missing"
        case "union_tag_invalid":
            path = (*path, "kind")
            known = first.get("ctx", {})
            reason = f"{known['tag']!r} is none of {known['expected_tags'].replace(chr(39), '')}"
        case "union_tag_not_found":
            reason = f"has no kind{shown}"
        case "model_type" | "model_attributes_type" | "dict_type" if path:
            reason = f"is no section{shown}"
        case _:
            reason = f"{reason}{shown}"
    field = ".".join(str(part) for part in path)
    if not way_out and document is not None:
        way_out = remedy(about_it, field, model) or ""
    if further:
        reason = f"{reason} (and {further} more)"
    return Complaint(field or "document", reason, way_out, cause)


def _written(detail: "ErrorDetails", document: Any) -> tuple[int | str, ...]:
    """The path of an error without the kinds and the types that pydantic puts in, which stand in no document."""
    path = detail["loc"]
    if document is None:
        return path
    kept = []
    for depth, part in enumerate(path):
        inside: Any = dict(enumerate(document)) if isinstance(document, list) else document
        present = isinstance(inside, dict) and part in inside
        absent = depth == 0 or (depth == len(path) - 1 and detail["type"] == "missing")
        if present or absent:
            kept.append(part)
            document = inside[part] if present else {}
    return tuple(kept)


def _cause(detail: "ErrorDetails") -> ValueError | None:
    """What a check of ours raised."""
    cause = detail.get("ctx", {}).get("error")
    return cause if isinstance(cause, ValueError) else None
