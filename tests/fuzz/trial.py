"""One case: what a reader says about the files in a folder, and whether that is what a user may be told."""

import io
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.fuzz.readers import Reader

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(str(ROOT / package) + os.sep for package in ("trainer", "moe", "netsim"))
MOST_CHARACTERS = 20_000
"""Of what is said about a file: twice the longest word that `oddities` writes."""
SPARE_BYTES = 6 * 2**30
"""Memory that a case may take besides what the process has."""


class Hangs(BaseException):
    """A reader has not ended in time."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        status: exit status; None: there is none, for an exception came out.
        fault: what is wrong with that, in one line; empty where nothing is. Equal for equal causes.
        said: standard error, and the traceback if there is one.
    """

    status: int | None
    fault: str
    said: str


def judge(reader: Reader, file: Path, limit_s: float) -> Verdict:
    """Lets a reader read the files in the working directory.

    Args:
        reader: who.
        file: which of them is damaged.
        limit_s: seconds after which it hangs; 0: it may take as long as it wants.
    """
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    fault, trace, status = "", "", None
    before, folder, search = dict(os.environ), Path.cwd(), list(sys.path)
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(output), redirect_stderr(errors):
        warnings.simplefilter("always")
        try:
            with _alarm(limit_s), _spare_memory():
                status = reader.read(file)
                output.flush()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except (Exception, Hangs) as error:
            fault, trace = _signature(error), traceback.format_exc()
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(before)
            sys.path[:] = search
    errors.flush()
    said = errors.buffer.getvalue().decode("utf-8")  # pyright: ignore[reportAttributeAccessIssue]
    return Verdict(status, fault or _fault(status, said, warned), said + trace)


def _fault(status: int | None, said: str, warned: Sequence[warnings.WarningMessage]) -> str:
    """What is wrong with an end that no exception brought about; empty where nothing is."""
    lines = said.removesuffix("\n").split("\n")
    ours = [warning for warning in warned if str(warning.filename).startswith(PACKAGES)]
    if status not in (0, 2):
        return f"exit status {status}"
    if "Traceback (most recent call last)" in said:
        return "a traceback was printed"
    if ours:
        name = Path(ours[0].filename).relative_to(ROOT)
        return f"{ours[0].category.__name__} at {name}:{ours[0].lineno} ({ours[0].message})"
    if status == 2 and not _is_refusal(lines):
        return f"exit status 2 with {len(lines) if said.strip() else 0} lines"
    if status == 2 and any(len(line) > MOST_CHARACTERS for line in lines):
        return f"a line of more than {MOST_CHARACTERS:,} characters"
    return ""


def _is_refusal(lines: Sequence[str]) -> bool:
    """Whether this is one line, or the objections of a check: several, each of which begins with the command."""
    command = lines[0].partition(": ")[0]
    several = len({*lines}) == len(lines) and all(line.startswith(f"{command}: ") for line in lines)
    return bool(lines[0].strip()) and (len(lines) == 1 or (command.endswith(" check") and several))


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        raise Hangs(f"not done after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _spare_memory() -> Iterator[None]:
    """More memory than is there for a case is refused, so that the machine goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    taken = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _signature(error: BaseException) -> str:
    """The kind of an exception and the deepest line of ours that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGES)]
    where = f" at {Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
