"""Files: digests of their content, and writing that leaves no half-written file; a refusal names the file."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any

from netsim.foundation.refusal import DiskFull, Refusal


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the SHA-256 of some files, in hexadecimal."""
    return hashlib.sha256(b"".join(bytes.fromhex(file_digest(path)) for path in paths)).hexdigest()


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turns an OSError in the block into `DiskFull` or a `Refusal` about the file or folder that is written."""
    try:
        yield
    except Exception as error:
        if is_full(error, Path(path)):
            problem = f"{path}: cannot be written ({os.strerror(errno.ENOSPC)})"
            raise DiskFull(f"{problem}; make space there and give the same command again") from error
        if isinstance(error, OSError):
            problem = f"cannot be written ({error.strerror or error})"
            raise Refusal(path, "output", problem, "choose a writable path") from error
        raise


@contextmanager
def reading(path: Path | str, remedy: str, field: str = "file") -> Iterator[None]:
    """Turns an OSError in the block into a `Refusal` about the file or folder that is read."""
    try:
        yield
    except OSError as error:
        raise Refusal(path, field, f"cannot be read ({error.strerror or error})", remedy) from error


def is_full(error: BaseException, path: Path | None = None) -> bool:
    """Whether an error means a full disk. For an OSError without a code, as of numpy, looks at the file system."""
    if not isinstance(error, OSError):
        return f"(os error {errno.ENOSPC})" in str(error)  # safetensors
    if error.errno is not None or path is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    with suppress(OSError):
        return disk_usage(path if path.is_dir() else path.parent).free == 0
    return False


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yields a temporary name in the folder of `path`, made if missing, and renames that file when the block ends well.

    Whatever is written there is removed if the block raises; a full disk is a `DiskFull`, all else a `Refusal`.
    """
    path = Path(path)
    with unfinished(path) as temporary, writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any, *, indent: int | None = 1, **options: Any) -> None:
    """Writes a document and the end of its last line; `options` are those of `json.dumps`."""
    write_text(path, json.dumps(document, indent=indent, **options) + "\n")


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside a file; a file with that name is removed at the end of the block."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def flush(paths: Iterable[Path]) -> None:
    """Flushes files and folders, in their order, from memory to the disk (fsync), so that they survive a power cut.

    The name of a file is an entry of its folder: a new file needs both.
    """
    for path in paths:
        with writing(path):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # this file system cannot flush
                    raise
            finally:
                os.close(handle)
