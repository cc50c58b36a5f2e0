"""The manners of the files that pass between packages: a refusal names the file, and nothing half-written stays."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage

_MOST_CHARACTERS, _ENDS = 1000, 200
"""Of a part of a message, and what is kept of each end of a longer one."""


class FileError(ValueError):
    """A file, or a field of it, that cannot be used.

    Args:
        file: The file.
        field: Dotted path of the field, or what the file is meant to be.
        problem: What is wrong, with the value in parentheses.
        remedy: What the user can do about it; empty where nobody knows.
    """

    def __init__(self, file: Path | str, field: str, problem: str, remedy: str) -> None:
        self.file = str(file)
        self.field, self.problem, self.remedy = map(_shortened, (field, problem, remedy))
        super().__init__(f"{file}: {self.field}: {self.problem}{self.remedy and f'; {self.remedy}'}")

    def __reduce__(self) -> tuple[type["FileError"], tuple[str, str, str, str]]:
        return FileError, (self.file, self.field, self.problem, self.remedy)


class Failure(RuntimeError):  # noqa: N818  it is what has happened
    """What ends a command whose input was good; the message is the one line that a person needs."""


class Unreachable(Failure):
    """A server of files that does not answer."""


class DiskFull(Failure):
    """A file for which its file system, or the user's share of it, has no space left."""


def _shortened(text: str) -> str:
    """A text whose middle is left out if nobody would read it."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_ENDS]} ... {text[-_ENDS:]}"


def problem_and_remedy(error: ValueError) -> tuple[str, str]:
    """The two parts of what an error says.

    Args:
        error: A `FileError`, an error that was raised from one and ends in its words, or one that says
            `problem; remedy`.

    Returns:
        What is wrong, and what can be done about it; the second is empty if the error does not say.
    """
    text = str(error)
    for told in (error, error.__cause__):
        if isinstance(told, FileError) and told.remedy and text.endswith(str(told)):
            return text.removesuffix(f"; {told.remedy}"), told.remedy
    problem, _, remedy = text.partition("; ")
    return problem, remedy


def lies_in(error: BaseException | None, folder: Path) -> bool:
    """Whether an error, or what it was raised from, is about a folder or a file in it."""
    while error is not None:
        if isinstance(error, FileError) and folder in (Path(error.file), *Path(error.file).parents):
            return True
        error = error.__cause__
    return False


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """While entered, an error of the system is about a file that is being written.

    Args:
        path: The file, or the folder of those that are written.

    Raises:
        DiskFull: There is no space for it.
        FileError: It cannot be written for another reason.
    """
    try:
        yield
    except Exception as error:
        if is_full(error, Path(path)):
            problem = f"{path}: cannot be written ({os.strerror(errno.ENOSPC)})"
            raise DiskFull(f"{problem}; make space there and give the same command again") from error
        if isinstance(error, OSError):
            problem = f"cannot be written ({error.strerror or error})"
            raise FileError(path, "output", problem, "choose a writable path") from error
        raise


def is_full(error: BaseException, path: Path | None = None) -> bool:
    """Whether an error says that there is no space left, in the words of the system or of a library that wrote.

    Args:
        error: What was raised.
        path: The file that was written; its file system is looked at where numpy keeps the reason to itself.
    """
    if not isinstance(error, OSError):
        return f"(os error {errno.ENOSPC})" in str(error)  # safetensors
    if error.errno is not None or path is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    with suppress(OSError):
        return disk_usage(path if path.is_dir() else path.parent).free == 0
    return False


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Write a file under a temporary name in its folder and rename it when the block ends well.

    Args:
        path: Where the finished file shall be; its folder is made if missing.

    Yields:
        The temporary name to write to. It is removed if the block raises.

    Raises:
        DiskFull: There is no space for the file.
        FileError: The folder cannot be made or the file cannot be put in place.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def flush(paths: Iterable[Path]) -> None:
    """Bring files and the entries of folders from the system's memory to the disk, which a power cut spares.

    The name of a file is an entry of its folder: a new file needs both.

    Args:
        paths: Files and folders, in the order in which they are flushed.

    Raises:
        DiskFull: There is no space for one.
        FileError: One cannot be flushed for another reason.
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
