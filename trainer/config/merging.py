"""What is written over what is given."""

from typing import Any


def merged(document: Any, changes: Any) -> Any:
    """A document with `changes` written over it key by key; a section of another kind replaces the one before."""
    if not isinstance(document, dict) or not isinstance(changes, dict):
        return changes
    if any(name in changes and changes[name] != document.get(name) for name in ("kind", "class")):
        return changes
    changed = {key: merged(document[key], value) if key in document else value for key, value in changes.items()}
    return {**document, **changed}
