"""The exit status of a run, which its ranks report to the launcher, and the refusal of a start."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from netsim.foundation.files import write_text
from netsim.foundation.refusal import Refusal
from trainer.distributed.process.signals import EX_TEMPFAIL, STAGE


class StartRefused(ValueError):  # noqa: N818  it is what has happened
    """Wrong input of which all ranks are notified; to start them again would change nothing.

    The message is a whole line, which names what is wrong and where.
    """


class RanksMissing(RuntimeError):  # noqa: N818  it is what has happened
    """Ranks that did not come, or did not answer in time; they may come when they are started again."""


def located(error: ValueError, path: Path | None) -> str:
    """Returns an error's text as one line that names the file or option at fault, or else begins with `path`."""
    text = " ".join(str(error).split())
    named = isinstance(error, Refusal | StartRefused) or text.startswith("--") or path is None
    return text if named else f"{path}: {text}"


VARIABLE = "FLOWFABRIC_EXIT_STATUS"
"""Names the file through which the ranks of a node report to their launcher."""


class ExitStatus(NamedTuple):
    """How a run ended: the exit code of a rank, and a line for a person, which may be empty."""

    code: int
    line: str


def conclude(code: int, line: str) -> None:
    """Reports how the run ended, to the launcher if there is one, else on standard error; called by every rank."""
    if VARIABLE in os.environ:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _write(Path(os.environ[VARIABLE]), ExitStatus(code, line))
    elif os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def refuse(line: str) -> None:
    """Reports wrong input to the launcher, so that it does not start the ranks again; only the first report is kept."""
    if VARIABLE in os.environ and read_exit_status(Path(os.environ[VARIABLE])) is None:
        _write(Path(os.environ[VARIABLE]), ExitStatus(2, line))


def reported(code: int) -> int:
    """Returns the exit code of a rank: 0 in place of 75 if its launcher has been notified of the stop.

    torchrun would take 75 for a failure, end the ranks that are still tidying up, and start all again on other nodes.
    """
    if VARIABLE not in os.environ or STAGE in os.environ:  # a stage's process returns it to that of all stages
        return code
    if code == 0:
        conclude(0, "")
    return 0 if code == EX_TEMPFAIL else code


def read_exit_status(path: Path) -> ExitStatus | None:
    """The exit status of the ranks; None if absent."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    code, _, line = text.partition(" ")
    return ExitStatus(int(code), line) if text else None


def _write(path: Path, status: ExitStatus) -> None:
    write_text(path, f"{status.code} {status.line}")
