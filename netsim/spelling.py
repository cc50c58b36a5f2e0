"""What a misspelt key, kind or value was most likely meant to be."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel


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
    found = [model]
    for part in location:
        chosen = [section for section in found if part in _kinds(section)]
        inner = [
            below
            for section in found
            for name, field in section.model_fields.items()
            if part in (name, field.alias) and not chosen
            for below in _sections(field.annotation)
        ]
        found = chosen or inner or (found if isinstance(part, int) else [])
    return [field.alias or name for section in found for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value of a type may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _kinds(section: type[BaseModel]) -> Sequence[str]:
    """What `kind` may be in a section."""
    field = section.model_fields.get("kind")
    return () if field is None else get_args(field.annotation)
