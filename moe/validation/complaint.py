"""The first complaint of a refused document, in the words of a person."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from moe.validation.remedy import remedy

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def first_complaint(
    error: ValidationError,
    document: object = None,
    model: type[BaseModel] | None = None,
) -> tuple[str, str]:
    """Boil a pydantic error down to its first complaint.

    Args:
        error: What pydantic raised.
        document: What was validated, if a person wrote it: keys are then named as they stand there.
        model: What it was validated as; needed to name the key or the kind that was meant.

    Returns:
        The dotted path of the field and the reason with the value; complaints about further fields are only counted.
        Where there is a document, the reason ends in a semicolon and a remedy, if one is known. A check of a whole
        model says `field: reason; remedy` itself.
    """
    details = [(_written(detail, document), detail) for detail in error.errors()]
    path, first = details[0]
    about_it = [detail for other, detail in details if other == path]
    further = len({other for other, _ in details}) - 1
    reason = first["msg"]
    shown = f" ({first['input']!r})" if len(repr(first["input"])) <= 60 else ""
    match first["type"]:
        case "value_error":
            head, colon, rest = reason.removeprefix("Value error, ").partition(": ")
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
    reason, _, way_out = reason.partition("; ")
    if not way_out and document is not None:
        way_out = remedy(about_it, field, model)
    if further:
        reason = f"{reason} (and {further} more)"
    return field or "document", f"{reason}; {way_out}" if way_out else reason


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
