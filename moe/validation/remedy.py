"""What a user can write in place of a value that pydantic refused."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from pydantic import BaseModel

from moe.validation.section import kind_of, sections_at

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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
"""What is wanted, by the first word of the type of an error."""


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The name that a misspelt one was most likely meant to be; None: none is near."""
    return next(iter(get_close_matches(str(name), list(names), n=1)), None)


def of_unknown_key(key: object, names: Iterable[str], others: Mapping[str, str]) -> str:
    """What to do about a key that a section does not have.

    Args:
        key: the key.
        names: the keys of the section.
        others: what to write for the names that other programs have for settings.
    """
    written = others.get(str(key).lower().replace("-", "_"))
    near = nearest(key, names)
    return f"{written or f'write {near}'}, or remove it" if written or near else "correct its name or remove it"


def remedy(details: "list[ErrorDetails]", field: str, model: type[BaseModel] | None) -> str | None:
    """What to do about one field.

    Args:
        details: all errors about it, one for each type that the value might have been of.
        field: its dotted path.
        model: what the document is; None: keys and kinds that are missing or misspelt are not named.

    Returns:
        What to write; None: nobody knows.
    """
    first = details[0]
    context = first.get("ctx", {})
    match first["type"]:
        case "missing":
            return "add it"
        case "extra_forbidden":
            *section, key = first["loc"]
            known = [] if model is None else sections_at(model, tuple(section))
            names = [name for one in known for name in one.model_fields]
            return of_unknown_key(key, names, getattr(model, "other_names", {}))
        case "union_tag_invalid":
            near = nearest(context["tag"], _names(context["expected_tags"]))
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
    """What a value should be."""
    limit = next(iter(detail.get("ctx", {}).values()), None)
    match detail["type"]:
        case "greater_than":
            return f"{limit + 1} or more" if isinstance(limit, int) else f"a number above {limit:g}"
        case "greater_than_equal":
            return f"{limit:g} or more"
        case "less_than":
            return f"{limit - 1} or less" if isinstance(limit, int) else f"a number below {limit:g}"
        case "less_than_equal":
            return f"{limit:g} or less"
        case "literal_error":
            return nearest(detail["input"], _names(str(limit))) or str(limit).replace("'", "")
    return _TYPES.get(detail["type"].partition("_")[0])


def _names(listed: str) -> list[str]:
    """The names in a list such as ``'a', 'b' or 'c'``."""
    return listed.replace(" or ", ", ").replace("'", "").split(", ")
