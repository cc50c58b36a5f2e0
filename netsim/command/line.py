"""The command line: its verbs, and what becomes of their errors."""

import argparse
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from netsim.command.bench import BENCH
from netsim.command.compare import COMPARE
from netsim.command.compile import COMPILE
from netsim.command.export import EXPORT
from netsim.command.following import show_following
from netsim.command.import_trace import IMPORT_TRACE
from netsim.command.keys import KEYS
from netsim.command.status import FAILED, INTERRUPTED, WRONG_INPUT
from netsim.command.sweep import SWEEP
from netsim.documents import LimitError
from netsim.foundation.refusal import Refusal, listed, nearest

VERBS = (COMPARE, SWEEP, BENCH, COMPILE, EXPORT, IMPORT_TRACE, KEYS)
"""Every verb, in the order of the help."""

_ABOUT = "Predicts what a network does with the traffic of distributed training."


class _Parser(argparse.ArgumentParser):
    """Answers wrong arguments with one line, like any other wrong input, instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument VERB: invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong is not None:
            near = nearest(wrong[1], listed(wrong[2]))
            message = f"{wrong[1]} is not a verb" + (f"; use {near}" if near else "")
        print(f"{self.prog}: command line: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG_INPUT)


def run(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments, those of the process if None.

    Returns:
        The exit status.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        status = arguments.verb.run(arguments)
    except LimitError as error:
        return _refuse(arguments, error, str(error), FAILED)
    except Refusal as error:
        return _refuse(arguments, error, str(error), WRONG_INPUT)
    except KeyboardInterrupt as error:
        return _refuse(arguments, error, "interrupted", INTERRUPTED)
    except Exception as error:
        return _refuse(arguments, error, f"{type(error).__name__}: {error}; use --debug to see where", FAILED)
    if not status:
        show_following(arguments)
    return status


def _refuse(arguments: argparse.Namespace, error: BaseException, problem: str, status: int) -> int:
    """Prints an error in one line and returns the exit status."""
    if arguments.debug:
        traceback.print_exception(error)
    print(f"netsim {arguments.verb.name}: {' '.join(problem.split())}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="netsim", description=_ABOUT)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_to(verbs)
    return parser
