"""trace: the collectives of a step of training, or of a drawing, by formula."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile
from trainer.command.options import request_of
from trainer.command.verb import Verb, add_configuration

OWN_SAMPLER = ""
"""What ``--sampling`` says without a value."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--world-size", type=int, required=True, metavar="W", help="ranks of the run")
    parser.add_argument("--ranks-per-node", type=int, default=8, metavar="R", help="ranks on one node (default: 8)")
    parser.add_argument(
        "--steps",
        metavar="N,N",
        help="optimiser steps to write (default: 1); of steps that share what a task collects only the first has "
        "rollouts, such as 1 of 1,2 with task.updates 2",
    )
    parser.add_argument(
        "--sampling",
        nargs="?",
        const=OWN_SAMPLER,
        metavar="SAMPLER",
        help="the collectives of drawing instead of those of a training step: by this sampler, as YAML, or by the "
        "run's own sample.sampler",
    )
    parser.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help="with --sampling: examples that each data rank draws (default: as many as in a training step's pass)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="with --sampling: scale of classifier-free guidance; any but 0 and 1 doubles the rows of each call "
        "(default: the run's sample.guidance)",
    )
    gaps = parser.add_mutually_exclusive_group()
    gaps.add_argument("--gap-ns", type=int, metavar="N", help="compute before each collective in ns (default: unknown)")
    gaps.add_argument(
        "--times",
        type=Path,
        metavar="JSONL",
        help="take the mean compute by phase, operation and layer from a recording; rollouts that it lacks "
        "take that of forward passes, in the ratio of their tokens",
    )
    parser.add_argument(
        "--work",
        action="store_true",
        help="say what is computed before each collective, operations and bytes of memory, from which "
        "python -m netsim compare --device h100 computes how long it takes; version 3 of the format",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="JSONL", help="the trace to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.trace.formula.write import TraceRequest, run

    return run(request_of(TraceRequest, options))


TRACE = Verb(
    "trace",
    "write the collectives that one step of a run, or a drawing, would issue, by formula, for netsim to simulate",
    "python -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out trace.jsonl",
    _add_arguments,
    _run,
    "With --sampling '{kind: euler, steps: 20}' they are those of drawing: a call of the network is a micro step, and "
    "the samples of all ranks are collected after the last one. Averaged weights and tokens are float32 then.",
    outputs=lambda options: [(OutputFile("--out", ('"source":"formula"',)), options.out)],
)
