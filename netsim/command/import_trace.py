"""import: a collective trace from what another tool recorded."""

import argparse
import sys
from pathlib import Path

from netsim.command.options import refuse_folder
from netsim.command.status import DONE
from netsim.command.verb import Verb
from netsim.foundation.refusal import Refusal

_ABOUT = """\
Turns what another tool recorded into a collective trace, for workload: {kind: trace, path: FILE}.

example:
  python -m netsim import kineto profiles --out trace.jsonl

kineto: a folder with the profile of every rank, .json or .json.gz, as torch.profiler writes it with export_chrome_trace
or tensorboard_trace_handler. Needed are NCCL and the events record_param_comms, which say of each collective its name,
elements, dtype, splits and process group. The time between two collectives of a rank becomes the gap of computation
before the second. The kernels' times count where the profile has them. Profiles of gloo do not say the sizes.

FILE is written whole or not at all, after a check that all ranks call the same collectives.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="FORMAT", help="kineto")
    parser.add_argument("path", type=Path, metavar="DIR", help="what was recorded")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the trace to write, JSON lines")


def _run(arguments: argparse.Namespace) -> int:
    from netsim.workload.kineto.convert import import_kineto

    if arguments.kind != "kineto":
        raise Refusal("command line", "FORMAT", f"no format is called {arguments.kind}", "write kineto")
    refuse_folder(arguments.out)
    converted = import_kineto(arguments.path, arguments.out)
    for notice in converted.notices:
        print(f"netsim import: {notice}", file=sys.stderr)
    print(f"{converted.records} collectives of {converted.ranks} ranks: {arguments.out}")
    return DONE


IMPORT_TRACE = Verb("import", "a collective trace from what another tool recorded", _ABOUT, _add_arguments, _run)
