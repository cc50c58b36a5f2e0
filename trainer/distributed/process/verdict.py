"""How a run ended, told to the launcher: torchrun itself returns 1 whatever code its ranks have ended with."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from netsim.foundation.files import replacing
from trainer.distributed.process.launcher import STAGE
from trainer.distributed.process.stop import EX_TEMPFAIL

VARIABLE = "FLOWFABRIC_VERDICT"
"""Names the file through which the ranks of a node tell their launcher."""


class Verdict(NamedTuple):
    """How a run ended: the exit code of a rank, and a line for a person, which may be empty."""

    code: int
    line: str


def conclude(code: int, line: str) -> None:
    """Tells the launcher how the run ended, or a person where no launcher asks; called by every rank."""
    if VARIABLE in os.environ:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _write(Path(os.environ[VARIABLE]), Verdict(code, line))
    elif os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def refuse(line: str) -> None:
    """Tells the launcher that the input is wrong, so that it starts nothing again; whichever rank says so first."""
    if VARIABLE in os.environ and read_verdict(Path(os.environ[VARIABLE])) is None:
        _write(Path(os.environ[VARIABLE]), Verdict(2, line))


def reported(code: int) -> int:
    """The code that a rank ends with: 0 in place of 75 where its launcher has been told.

    torchrun would take 75 for a failure, end the ranks that are still tidying up, and start all again on other nodes.
    """
    if VARIABLE not in os.environ or STAGE in os.environ:  # a stage's own process tells the code to that of all stages
        return code
    if code == 0:
        conclude(0, "")
    return 0 if code == EX_TEMPFAIL else code


def read_verdict(path: Path) -> Verdict | None:
    """The verdict of the ranks; None if absent."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    code, _, line = text.partition(" ")
    return Verdict(int(code), line) if text else None


def _write(path: Path, verdict: Verdict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(f"{verdict.code} {verdict.line}", encoding="utf-8")
