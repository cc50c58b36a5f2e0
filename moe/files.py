"""The manners of the files that pass between packages: a refusal names the file, and nothing half-written stays."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError


class FileError(ValueError):
    """A file, or a field of it, that cannot be used.

    Args:
        path: The file.
        field: Dotted path of the field, or what the file is meant to be.
        problem: What is wrong, with the value in parentheses.
        remedy: What the user can do about it.
    """

    def __init__(self, path: Path | str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {field}: {problem}; {remedy}")


def first_complaint(error: ValidationError, document: object = None) -> tuple[str, str]:
    """Boil a pydantic error down to its first complaint.

    Args:
        error: What pydantic raised.
        document: What was validated; needed only where a part is chosen by its `kind`, which pydantic adds to the path.

    Returns:
        The dotted path of the field and the reason with the value; further errors are only counted. A check of a
        whole model says `field: reason` itself.
    """
    details = error.errors()
    first = details[0]
    path = list(first["loc"]) if document is None else _written(first["loc"], document)
    reason = first["msg"]
    shown = repr(first["input"])
    if first["type"] == "value_error":
        head, colon, rest = reason.removeprefix("Value error, ").partition(": ")
        path, reason = ([*path, head], rest) if colon else (path, head)
    elif first["type"] == "extra_forbidden":
        reason = f"is not permitted here ({shown})" if len(shown) <= 60 else "is not permitted here"
    elif first["type"] == "missing":
        reason = "is required but missing"
    elif len(shown) <= 60:
        reason = f"{reason} ({shown})"
    field = ".".join(str(part) for part in path)
    if len(details) > 1:
        reason = f"{reason} (and {len(details) - 1} more)"
    return field or "document", reason


def _written(path: tuple[int | str, ...], document: Any) -> list[int | str]:
    """The path without the kinds that pydantic puts in; only its last part may be absent from the document."""
    kept = []
    for depth, part in enumerate(path):
        inside = part in document if isinstance(document, dict) else isinstance(document, list)
        if inside or depth == len(path) - 1:
            kept.append(part)
        if inside and depth < len(path) - 1:
            document = document[part]
    return kept


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name in its folder and rename it when the block ends well.

    Args:
        path: Where the finished file shall be; its folder is made if missing.

    Yields:
        The temporary name to write to. It is removed if the block raises.

    Raises:
        FileError: The folder cannot be made or the file cannot be put in place.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise FileError(path, "output", f"cannot be written ({error.strerror})", "choose a writable path") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
