"""The sections of a configuration with stages: how a stage changes them, and folders beside each other in them."""

from pathlib import Path
from typing import Any

BASE = "{run.dir}"
"""Stands in a string for the folder of all stages together."""


def merged(document: Any, changes: Any) -> Any:
    """A document with some values changed; a section of another kind replaces the one before."""
    if not isinstance(document, dict) or not isinstance(changes, dict):
        return changes
    if any(name in changes and changes[name] != document.get(name) for name in ("kind", "class")):
        return changes
    changed = {key: merged(document[key], value) if key in document else value for key, value in changes.items()}
    return {**document, **changed}


def filled(value: Any, base: str) -> Any:
    """A value with the folder of all stages in place of :data:`BASE`."""
    match value:
        case str():
            return value.replace(BASE, base)
        case dict():
            return {key: filled(inner, base) for key, inner in value.items()}
        case list():
            return [filled(inner, base) for inner in value]
    return value


def placed(value: Any, base: str) -> Any:
    """A value with :data:`BASE` in place of the folder of all stages, so that it is the same wherever that lies."""
    match value:
        case str():
            return BASE + value.removeprefix(base) if Path(value).is_relative_to(base) else value
        case dict():
            return {key: placed(inner, base) for key, inner in value.items()}
        case list():
            return [placed(inner, base) for inner in value]
    return value
