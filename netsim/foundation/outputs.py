"""Outputs of a verb: it replaces its own earlier results, and other contents only with --overwrite.

A verb recognises its earlier results by something that it always writes: a file in a folder, words at the beginning of
a file. netsim follows the same rule.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from netsim.foundation.refusal import Refusal

OPTION = "--overwrite"
"""The option that lets a verb replace other contents."""
_BEGINNING = 4096
_NAMED = 3


@dataclass(frozen=True)
class OutputFolder:
    """A folder of results; an empty one is anybody's, and names that begin with a dot do not count.

    Attributes:
        option: Option that names it.
        marks: Patterns of names, of which an earlier start of the verb has left one at least.
    """

    option: str
    marks: Sequence[str]

    def check(self, path: Path, *, overwrite: bool = False) -> None:
        """Refuses a file, and a folder with other contents than results of the verb."""
        if not path.exists():
            return
        if not path.is_dir():
            raise Refusal(path, self.option, "is a file", "name a folder")
        names = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
        if overwrite or not names or any(True for mark in self.marks for _ in path.glob(mark)):
            return
        shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        raise Refusal(
            path,
            self.option,
            f"contains other things than results of this verb ({shown})",
            f"give a new folder, or {OPTION}",
        )


@dataclass(frozen=True)
class OutputFile:
    """A file of results.

    Attributes:
        option: Option that names it.
        marks: Words, some of which are in the first 4 KiB of whatever the verb writes there.
    """

    option: str
    marks: Sequence[str]

    def check(self, path: Path, *, overwrite: bool = False) -> None:
        """Refuses a folder, and a file with other contents than results of the verb."""
        if path.is_dir():
            raise Refusal(path, self.option, "is a folder", "name a file")
        if overwrite or not path.exists():
            return
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
        if beginning and not any(mark.encode() in beginning for mark in self.marks):
            raise Refusal(path, self.option, "was not written by this verb", f"give another name, or {OPTION}")


Output = OutputFolder | OutputFile


def page_mark(verb: str) -> str:
    """Returns the HTML tag that names the verb of a page, such as `moe place`."""
    return f'<meta name="generator" content="flowfabric {verb}">'


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds --overwrite to the options of a verb."""
    parser.add_argument(OPTION, action="store_true", help="write there even if it holds what another verb wrote")


def check_outputs(outputs: Iterable[tuple[Output, Path | None]], *, overwrite: bool) -> None:
    """Refuses paths with other contents, unless the user overwrites them; outputs at None are not written.

    Of several ranks only rank 0 checks, before any rank has begun to write.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    for output, path in outputs:
        if path is not None:
            output.check(path, overwrite=overwrite)
