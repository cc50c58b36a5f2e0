"""export: a placement or a trace in the format of another tool."""

import argparse
from pathlib import Path

from moe.command.verb import Verb

_DESCRIPTION = """\
Writes a file of this project in a format of ExFlow:
  exflow-csv   a placement (.json) as CSV with the header Expert,Node
  exflow-npy   the expert ids of a routing trace (.npz) as an array [tokens, layers],
               or [tokens, layers, k] for several choices
"""
_EXAMPLES = """\
examples:
  python -m moe export placement.json --to exflow-csv placement.csv
  python -m moe export routing.npz --to exflow-npy routing.npy
"""


def _add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", type=Path, metavar="FILE", help="placement (.json) or routing trace (.npz)")
    command.add_argument("--to", required=True, metavar="FORMAT", help="exflow-csv or exflow-npy")
    command.add_argument("out", type=Path, metavar="OUT", help="file to write")


def _run(arguments: argparse.Namespace) -> None:
    from moe.interchange.exflow import write_csv, write_npy
    from moe.placement.placement import Placement
    from moe.routing_trace import RoutingTrace

    if arguments.to == "exflow-csv":
        write_csv(Placement.read(arguments.source), arguments.out)
    elif arguments.to == "exflow-npy":
        write_npy(RoutingTrace.read(arguments.source), arguments.out)
    else:
        raise ValueError(f"to: unknown format ({arguments.to}); choose from exflow-csv, exflow-npy")
    print(f"wrote {arguments.out}")


EXPORT = Verb(
    "export", "write a placement or a trace as ExFlow does", lambda: _DESCRIPTION, _EXAMPLES, _add_arguments, _run
)
