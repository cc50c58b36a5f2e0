"""What a case finds: a digest for each result, and the text itself where a difference is to be read."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

from tests.forked import ROOT, command

WRONG_INPUT = 2
PATIENCE_S = 3600.0
"""For one command, on a machine that does other things too."""
LEFT_OUT = frozenset({"wall_s", "seconds_per_sample"})
"""Fields that a clock or a machine changes."""
PROGRAMS = {name: ROOT / name / "__main__.py" for name in ("trainer", "moe", "netsim")}


class Gold:
    """The results of one case by their name.

    Attributes:
        digests: SHA-256 of each result.
        texts: results that are short and read by people.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def text(self, name: str, text: str) -> None:
        """Adds what a command prints, which the file keeps."""
        self.texts[name] = text
        self.digests[name] = digest(text)

    def files(self, name: str, paths: Iterable[Path]) -> None:
        """Adds the bytes of files as one result."""
        self.digests[name] = digest(*(path.read_bytes() for path in sorted(paths)))

    def json(self, name: str, path: Path, folder: Path) -> None:
        """Adds a JSON file without the fields that a clock changes; paths below ``folder`` count as relative."""
        document = without(json.loads(path.read_text(encoding="utf-8").replace(str(folder), "DIR")), LEFT_OUT)
        self.digests[name] = digest(json.dumps(document))


class Case(NamedTuple):
    """Something that is computed by itself.

    Attributes:
        name: its group and what it is; the names of its results begin so.
        make: computes it into a folder of its own.
    """

    name: str
    make: Callable[[Gold, Path], None]


def digest(*parts: str | bytes) -> str:
    """SHA-256 of parts, each with its length."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(f"{len(data)}:".encode())
        found.update(data)
    return found.hexdigest()


def without(document: Any, names: frozenset[str]) -> Any:
    """A document without the fields of these names, at any depth."""
    match document:
        case dict():
            return {key: without(value, names) for key, value in document.items() if key not in names}
        case list():
            return [without(value, names) for value in document]
    return document


def call(package: str, *arguments: str) -> CompletedProcess[str]:
    """Runs a command of a package on a page of 120 columns.

    Raises:
        RuntimeError: it ended by anything but success or a refusal of wrong input.
    """
    program = PROGRAMS[package]
    result = command(*arguments, program=program, timeout_s=PATIENCE_S, COLUMNS="120", PYTHONWARNINGS="ignore")
    if result.returncode not in (0, WRONG_INPUT):
        said = result.stderr.strip().splitlines() or ["nothing"]
        raise RuntimeError(f"{package} {' '.join(arguments)}: exit code {result.returncode}: {said[-1]}")
    return result


def done(gold: Gold, name: str, result: CompletedProcess[str], folder: Path) -> bool:
    """Whether a command went through; the line of one that was refused is its result."""
    if result.returncode:
        gold.text(f"{name}/refused", result.stderr.strip().splitlines()[-1].replace(str(folder), "DIR") + "\n")
    return result.returncode == 0
