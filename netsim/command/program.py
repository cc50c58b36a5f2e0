"""The program netsim: its verbs, and its speed and compilation on this machine."""

import argparse
import sys
from pathlib import Path
from typing import Annotated

from netsim.command.files import EXPORT, IMPORT, KEYS, refuse_folder
from netsim.command.simulate import COMPARE, SWEEP
from netsim.documents import LimitError
from netsim.foundation.command import DONE, FAILED, Program, Request, Verb
from netsim.foundation.refusal import Refusal

_BENCH = """\
Measures how many packet-hops (a packet over a link) each engine simulates in a second of CPU time, on this machine.

example:
  python -m netsim bench --out bench.json

Every case runs in a process of its own: once at a small size, which compiles the engine, then several times at full
size. The median of these is reported. Takes a few minutes.
"""
_COMPILE = """\
Compiles every engine, two to four minutes once for each version, so that no later command waits for it. For images of
containers and for machines that many use; the compiled code lies beside the sources.

example:
  python -m netsim compile
"""


class Bench(Request):
    """How often is measured."""

    out: Annotated[Path | None, "FILE"] = None
    """also write the figures there, JSON"""
    repeats: Annotated[int, "N"] = 5
    """timed runs a case (default: 5)"""


def _bench(request: Bench) -> int:
    from netsim.bench.bench import bench, print_figures, write_figures

    if request.repeats < 1:
        raise Refusal("command line", "--repeats", f"must be at least 1 ({request.repeats})", "use 1 or more")
    if request.out:
        refuse_folder(request.out)
    figures = bench(request.repeats)
    print_figures(figures)
    if request.out:
        write_figures(figures, request.out)
    return FAILED if figures.unmeasured else DONE


_FIRST = "python -m netsim compare configs/scenarios/all_to_all_64.yaml --out runs/fabric"
BENCH = Verb(
    name="bench",
    summary="packet-hops per second of CPU time, by engine",
    description=_BENCH,
    request=Bench,
    run=_bench,
    following=_FIRST,
)


def _compile(request: Request) -> None:  # noqa: ARG001
    from netsim.bench.compilation import compile_engines

    compile_engines(lambda name: print(f"netsim compile: {name}", file=sys.stderr, flush=True))


COMPILE = Verb(
    name="compile",
    summary="compile every engine ahead of its first use",
    description=_COMPILE,
    request=Request,
    run=_compile,
    following=_FIRST,
)


class _Netsim(Program):
    """Only what is refused is wrong input: another error, whatever it is, is a failure in one line."""

    def ending(self, error: BaseException, options: argparse.Namespace) -> tuple[int, str]:
        if isinstance(error, LimitError):
            return FAILED, " ".join(str(error).split())
        problem = f"{type(error).__name__}: {error}; use --debug to see where"
        return super().ending(error, options) or (FAILED, " ".join(problem.split()))

    def misused(self, message: str) -> str:
        return f"command line: {message}"


PROGRAM = _Netsim(
    "netsim",
    (COMPARE, SWEEP, BENCH, COMPILE, EXPORT, IMPORT, KEYS),
    "Predicts what a network does with the traffic of distributed training.",
    prog="netsim",
)
