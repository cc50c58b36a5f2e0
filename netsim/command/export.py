"""export: a collective trace for another simulator."""

import argparse
from pathlib import Path

from netsim.command.options import add_overwrite, refuse_foreign
from netsim.command.status import DONE
from netsim.command.verb import Verb
from netsim.foundation.refusal import Refusal

_ABOUT = """\
Writes a collective trace in the format of another simulator.

example:
  python -m netsim export runs/demo/traces/collectives.jsonl --to chakra runs/demo/chakra

chakra: an execution trace NAME.RANK.et for each rank, and comm_groups.json, as ASTRA-sim reads them.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a collective trace, JSONL")
    parser.add_argument(
        "--to", nargs=2, required=True, metavar=("FORMAT", "DIR"), help="the format (chakra) and the output folder"
    )
    add_overwrite(parser)


def _run(arguments: argparse.Namespace) -> int:
    from netsim.workload.chakra.export import write_chakra
    from netsim.workload.records import read_trace

    kind, folder = arguments.to[0], Path(arguments.to[1])
    if kind != "chakra":
        raise Refusal("command line", "--to", f"no format is called {kind}", "write --to chakra DIR")
    refuse_foreign(folder, "export", "*.et", arguments.overwrite, "--to")
    trace = read_trace(arguments.trace)
    write_chakra(trace, folder)
    print(f"{len(trace.programs)} execution traces: {folder}")
    return DONE


EXPORT = Verb("export", "a collective trace for another simulator", _ABOUT, _add_arguments, _run)
