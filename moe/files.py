"""The manners of the files that pass between packages: a refusal names the file, and nothing half-written stays."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


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
