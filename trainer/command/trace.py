"""trace: the collectives of a step, by formula."""

import argparse
from pathlib import Path

from trainer.command.options import request_of
from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--world-size", type=int, required=True, metavar="W", help="ranks of the run")
    parser.add_argument("--ranks-per-node", type=int, default=8, metavar="R", help="ranks on one node (default: 8)")
    gaps = parser.add_mutually_exclusive_group()
    gaps.add_argument("--gap-ns", type=int, metavar="N", help="compute before each collective in ns (default: unknown)")
    gaps.add_argument(
        "--times",
        type=Path,
        metavar="JSONL",
        help="take the mean compute by phase, operation and layer from a recording",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="JSONL", help="the trace to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.trace.formula.write import TraceRequest, run

    return run(request_of(TraceRequest, options))


TRACE = Verb(
    "trace",
    "write the collectives that one step of a run would issue, by formula, for netsim to simulate",
    "python -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out trace.jsonl",
    _add_arguments,
    _run,
)
