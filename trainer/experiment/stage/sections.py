"""The sections of a configuration with stages: folders beside each other in them."""

from pathlib import Path
from typing import Any

BASE = "{run.dir}"
"""Stands in a string for the folder of all stages together."""


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
