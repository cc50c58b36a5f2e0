"""compile: every engine ahead of its first use."""

import argparse
import sys

from netsim.command.status import DONE
from netsim.command.verb import Verb

_ABOUT = """\
Compiles every engine, two to four minutes once for each version, so that no later command waits for it. For images of
containers and for machines that many use; the compiled code lies beside the sources.

example:
  python -m netsim compile
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def _run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from netsim.bench.compilation import compile_engines

    compile_engines(lambda name: print(f"netsim compile: {name}", file=sys.stderr, flush=True))
    return DONE


COMPILE = Verb("compile", "compile every engine ahead of its first use", _ABOUT, _add_arguments, _run)
