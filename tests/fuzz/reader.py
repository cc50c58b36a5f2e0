"""What a reader is, and how one is made of a function or of a verb."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutations import Format

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Reader:
    """Who reads, and what.

    Attributes:
        name: for the table.
        files: by which the sound files are known: path in the working directory and format of each that is damaged.
        write: writes the sound files into the working directory.
        read: reads them and returns the exit status; it is given the path of the file that is damaged.
        sound: exit status with sound files.
    """

    name: str
    files: dict[str, Format]
    write: Callable[[], None]
    read: Callable[[Path], int]
    sound: int = 0


def reading(read: Callable[[Path], object]) -> Callable[[Path], int]:
    """A function that reads a file, as a verb would call it."""

    def status(file: Path) -> int:
        try:
            read(file)
        except ValueError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 2
        return 0

    return status


def copied(*names: str | tuple[str, str]) -> Callable[[], None]:
    """Copies files of the repository, each under its own name or under another."""

    def write() -> None:
        for name in names:
            source, target = (name, Path(name).name) if isinstance(name, str) else name
            shutil.copy(ROOT / source, target)

    return write


def written(**texts: str) -> Callable[[], None]:
    """Writes texts; in the name of a file two underscores stand for a dot."""

    def write() -> None:
        for name, text in texts.items():
            Path(name.replace("__", ".")).write_text(text, encoding="utf-8")

    return write


def all_of(*writes: Callable[[], None]) -> Callable[[], None]:
    """Writes what each of several writes."""

    def write() -> None:
        for one in writes:
            one()

    return write


def words(file: Path) -> list[str]:
    """The arguments that a file lists, one a line; what no command line can hold is left out."""
    text = file.read_bytes().decode("utf-8", "surrogateescape") if file.is_file() else ""
    return [line for line in text.split("\n") if line and "\0" not in line and line not in ("--debug", "--help", "-h")]
