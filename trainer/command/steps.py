"""steps: grids of times on which few steps of Euler's method come near many."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import check_outputs, numbers_of_evaluations
from trainer.command.verb import Verb

EVALUATIONS = "2,4,6,8"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "--evaluations",
        default=EVALUATIONS,
        metavar="N,N,...",
        help=f"evaluations of the field, one a step; a grid for each (default: {EVALUATIONS})",
    )
    parser.add_argument(
        "--search",
        choices=("endpoint", "chord"),
        default="endpoint",
        help="endpoint (default): descent on the error at the end, never worse than equal steps on its own noises; "
        "chord: dynamic programme over the summed errors of single steps, at times worse than equal steps at the end",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="equal steps of the fine grid, of which the searched times are some (default: 100, or the next multiple "
        "of the segments of a segmented sampler)",
    )
    parser.add_argument("--num", type=int, default=100, help="noises that are searched with (default: 100)")
    parser.add_argument("--fresh", type=int, default=1000, help="other noises, to measure the grids (default: 1000)")
    parser.add_argument(
        "--guidance", type=float, help="scale of classifier-free guidance (default: the run's sample.guidance)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noises (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the grids and their figures")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="HTML",
        help="also write a page that needs nothing else: costs of steps, grids, errors, what is drawn with each",
    )


def _run(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from netsim.foundation.complaint import first_complaint

    evaluations = numbers_of_evaluations(options.evaluations)
    check_outputs({"--out": options.out, "--page": options.page})
    from trainer.evaluation.steps.run import run
    from trainer.sampling.steps.request import StepsRequest

    names = ("search", "nodes", "num", "fresh", "guidance", "seed")
    document = {"run": options.run_dir, "evaluations": evaluations} | {name: getattr(options, name) for name in names}
    try:
        request = StepsRequest.model_validate(document)
    except ValidationError as error:
        found = first_complaint(error, document, StepsRequest)
        raise ValueError(f"--{found.field}: {found.problem}; {found.remedy or 'correct the value'}") from error
    return run(request, options.out, options.page)


STEPS = Verb(
    "steps",
    "search times at which few steps of Euler's method lead where many lead, for any trained flow; it needs no data "
    "and trains nothing",
    "python -m trainer steps runs/digits_moe --evaluations 2,4,6,8 --out steps.json --page steps.html",
    _add_arguments,
    _run,
    "The averaged weights of the newest complete checkpoint are followed from noise on this process alone, classes in "
    "turn; a run that samples segment by segment keeps the edges of its segments. Distances are those of states, so "
    "that they are of latents where a run has some. sample, evaluate and pairs take the file with --steps or as times "
    "of a sampler, and a run's own sampler with sample.sampler={kind: euler, steps: 4, times: steps.json}. A run's "
    "sample.controls are left out of the search; samples on its times may have some.",
    outputs=lambda options: [
        (OutputFile("--out", ("flowfabric.steps/",)), options.out),
        (OutputFile("--page", (page_mark("steps"),)), options.page),
    ],
)
