"""compare: several methods on one data set, and one page to choose from."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFolder
from trainer.command.options import numbers_of_evaluations, request_of
from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG|key=value",
        help="configurations of methods, such as configs/methods/*.yaml, and settings that replace those of --base, "
        "for example optim.steps=500; stages.NAME.key=value changes the stage of that name in every method that has it",
    )
    parser.set_defaults(overrides=[])
    parser.add_argument(
        "--base",
        type=Path,
        default=Path("configs/methods/flow_matching.yaml"),
        metavar="CONFIG",
        help="configuration of everything but flow and stages: data, model, optimiser, budget "
        "(default: configs/methods/flow_matching.yaml, points in the plane)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    parser.add_argument(
        "--nproc",
        dest="ranks",
        metavar="NPROC",
        type=int,
        default=1,
        help="ranks of each run, on this machine (default: 1)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs that are trained at a time, the cores shared among them unless OMP_NUM_THREADS is set; "
        "runs at the same time slow each other (default: 1)",
    )
    parser.add_argument(
        "--evaluations",
        default="1,2,4,8,16,32,100",
        metavar="N,N,...",
        help="function evaluations of a sample, with commas between them (default: 1,2,4,8,16,32,100)",
    )
    parser.add_argument("--num", type=int, default=1000, help="samples of each set (default: 1000)")
    parser.add_argument(
        "--fabric",
        type=Path,
        metavar="SCENARIO",
        help="scenario of netsim that prices samples: its fabric, transports and seeds; the collectives of a network "
        "call take the place of its workload (default: configs/scenarios/sampling_64.yaml)",
    )
    parser.add_argument(
        "--fabric-ranks",
        type=int,
        default=64,
        metavar="W",
        help="ranks that draw there, the experts spread over as many as divide both (default: 64)",
    )
    parser.add_argument(
        "--fabric-examples",
        type=int,
        default=16,
        metavar="N",
        help="samples that each of them draws at once (default: 16)",
    )
    parser.add_argument(
        "--teraflops",
        type=float,
        default=400.0,
        metavar="T",
        help="arithmetic that a rank sustains there, TFLOP/s (default: 400, of one accelerator in bf16)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/compare"),
        metavar="DIR",
        help="folder of the page (index.html), the figures (compare.json) and the runs (default: runs/compare)",
    )


def _run(options: argparse.Namespace) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    from trainer.experiment.comparison.plan import CompareRequest
    from trainer.experiment.comparison.run import run

    words = [*options.words, *options.overrides]
    return run(request_of(CompareRequest, options, words=words, evaluations=evaluations))


COMPARE = Verb(
    "compare",
    "train several methods on one data set with one budget, and write one page to choose from: quality against "
    "function evaluations, straightness, path energy, step time, samples and trajectories side by side",
    "python -m trainer compare configs/methods/*.yaml --seeds 3 --out runs/compare",
    _add_arguments,
    _run,
    "A method gives its flow and its stages, which share the optimiser steps among them, and its sampler unless that "
    "is a plain solver of dx/dt = v. A method that does not go with the data or the model is left out, and the page "
    "says why; a file that is malformed is refused. Runs that are finished are not trained again.",
    outputs=lambda options: [(OutputFolder("--out", ("compare.json", "*/method.yaml")), options.out)],
)
