"""bench: speed of the engines on this machine."""

import argparse
from pathlib import Path

from netsim.command.options import refuse_folder
from netsim.command.status import DONE, FAILED
from netsim.command.verb import Verb
from netsim.foundation.refusal import Refusal

_ABOUT = """\
Measures how many packet-hops (a packet over a link) each engine simulates in a second of CPU time, on this machine.

example:
  python -m netsim bench --out bench.json

Every case runs in a process of its own: once at a small size, which compiles the engine, then several times at full
size. The median of these is reported. Takes a few minutes.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the figures there, JSON")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs a case (default: 5)")


def _run(arguments: argparse.Namespace) -> int:
    from netsim.bench.bench import bench, print_figures, write_figures

    if arguments.repeats < 1:
        raise Refusal("command line", "--repeats", f"must be at least 1 ({arguments.repeats})", "use 1 or more")
    if arguments.out:
        refuse_folder(arguments.out)
    figures = bench(arguments.repeats)
    print_figures(figures)
    if arguments.out:
        write_figures(figures, arguments.out)
    return FAILED if figures.unmeasured else DONE


BENCH = Verb("bench", "packet-hops per second of CPU time, by engine", _ABOUT, _add_arguments, _run)
