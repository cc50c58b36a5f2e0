"""What several verbs refuse of their options before they begin."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

MOST_EVALUATIONS = 10_000
"""Function evaluations of a sample."""


def check_evaluations(listed: str) -> None:
    """Refuses numbers of function evaluations that are too large or stand there twice.

    Args:
        listed: numbers with commas between them.

    Raises:
        ValueError: it is no list of numbers, or a number is out of range or stands there twice.
    """
    words = [word.strip().lstrip("0") for word in listed.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--evaluations: {listed!r} is no list of numbers from 1; use for example 1,2,10")
    seen: set[int] = set()
    for number in (int(word[:100]) for word in words):
        if number > MOST_EVALUATIONS:
            raise ValueError(f"--evaluations: {number:.6g} is above {MOST_EVALUATIONS}; use {MOST_EVALUATIONS} or less")
        if number in seen:
            raise ValueError(f"--evaluations: {number} stands there twice; give each number once")
        seen.add(number)


def check_outputs(files: Mapping[str, Path | None]) -> None:
    """Refuses files that could not be written at the end of a long measurement; leaves nothing behind.

    Args:
        files: the file of each option; None: the option is not given.

    Raises:
        ValueError: two are the same, one is a folder, or its folder cannot be written.
    """
    taken: dict[Path, str] = {}
    for option, file in files.items():
        if file is None:
            continue
        other = taken.setdefault(file.resolve(), option)
        if other != option:
            raise ValueError(f"{option}: {file} is the file of {other} too; give another")
        if file.is_dir():
            raise ValueError(f"{option}: {file} is a folder; name a file in it")
        existing = next(folder for folder in file.absolute().parents if folder.exists())
        try:
            with TemporaryFile(dir=existing):
                pass
        except OSError as error:
            reason = f"its folder cannot be written ({error.strerror})"
            raise ValueError(f"{option}: {file}: {reason}; choose a writable path") from error
