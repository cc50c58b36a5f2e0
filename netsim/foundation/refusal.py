"""Errors: wrong input, by file, field, problem and remedy, and failures of a command whose input was good."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

_MOST_CHARACTERS, _ENDS = 1000, 200
"""Most characters of a part of a message, and characters kept of each end of a longer one."""


class Refusal(ValueError):  # noqa: N818  it is what the user reads
    """Wrong input, in one line.

    Args:
        file: The file, or another source such as the command line; empty where it is not known yet.
        field: Dotted path of the field, or what the file is meant to be; empty: all of it.
        problem: What is wrong, with the value in parentheses.
        remedy: What the user can do about it; empty if unknown.
    """

    def __init__(self, file: Path | str, field: str, problem: str, remedy: str) -> None:
        self.file = str(file)
        self.field, self.problem, self.remedy = map(_shortened, (field, problem, remedy))
        place = "".join(f"{part}: " for part in (self.file, self.field) if part)
        super().__init__(f"{place}{self.problem}{self.remedy and f'; {self.remedy}'}")

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str, str, str]]:
        return type(self), (self.file, self.field, self.problem, self.remedy)


class Failure(RuntimeError):  # noqa: N818  it is what has happened
    """A failure of a command whose input was good; the message is one line for the user."""


class Unreachable(Failure):
    """A server of files that does not answer."""


class DiskFull(Failure):
    """A file for which its file system, or the user's share of it, has no space left."""


def _shortened(text: str) -> str:
    """A text without its middle if it is very long."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_ENDS]} ... {text[-_ENDS:]}"


@contextmanager
def prefixed(place: str) -> Iterator[None]:
    """Puts a field or an option in front of the message of a ValueError in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error


def check_least(*options: tuple[str, int | None, int]) -> None:
    """Refuses the first option whose value is below its least one; None: it was not given."""
    for option, value, least in options:
        if value is not None and value < least:
            raise ValueError(f"{option}: {value} is below {least}; use {least} or more")


def problem_and_remedy(error: ValueError) -> tuple[str, str]:
    """The problem and the remedy of an error; the remedy is empty if the error has none.

    It is a `Refusal`, was raised from one and ends in its words, or says `problem; remedy`.
    """
    text = str(error)
    for source in (error, error.__cause__):
        if isinstance(source, Refusal) and source.remedy and text.endswith(str(source)):
            return text.removesuffix(f"; {source.remedy}"), source.remedy
    problem, _, remedy = text.partition("; ")
    return problem, remedy


def lies_in(error: BaseException | None, folder: Path) -> bool:
    """Whether an error, or an error from which it was raised, concerns a folder or a file in it."""
    while error is not None:
        if isinstance(error, Refusal) and error.file and folder in (Path(error.file), *Path(error.file).parents):
            return True
        error = error.__cause__
    return False


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The name that a misspelt one was most likely meant to be; None: none is near."""
    return next(iter(get_close_matches(str(name), list(names), n=1)), None)


def listed(names: str) -> list[str]:
    """The names in a list such as ``'a', 'b' or 'c'``."""
    return names.replace(" or ", ", ").replace("'", "").split(", ")
