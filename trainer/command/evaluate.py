"""evaluate: what a trained network can do, in figures."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import add_controls_option, check_outputs, controls_choice, numbers_of_evaluations
from trainer.command.verb import Verb

EVALUATIONS = "1,2,3,5,10,20,100"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "--evaluations",
        default=EVALUATIONS,
        metavar="N,N,...",
        help=f"function evaluations of a sample, with commas between them (default: {EVALUATIONS})",
    )
    parser.add_argument(
        "--num",
        type=int,
        default=1000,
        help="samples of each set, the classes in turn; objects of each preference (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument(
        "--likelihood",
        type=int,
        default=0,
        metavar="N",
        help="also compute bits a dimension of so many held-out examples (default: 0, none)",
    )
    parser.add_argument(
        "--data-from",
        type=Path,
        metavar="RUN_DIR",
        help="run whose data are the real examples, for example the teacher's where this run learned from a teacher's "
        "pairs (default: this run)",
    )
    parser.add_argument(
        "--steps",
        type=Path,
        metavar="JSON",
        help="also measure Euler's method at the times of this file of the steps verb, made with --guidance 1, and all "
        "samplers at its numbers of evaluations",
    )
    add_controls_option(parser)
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="also compare samples and data on the features of the network in this safetensors file: FID, precision "
        "and recall; import-features makes one. For 50,000 samples and many ranks there is the verb fid",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="NPZ",
        help="with --features: statistics of the real examples, as the fid verb writes them or pytorch-fid and "
        "guided-diffusion publish them (default: of up to 10,000 training examples)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the figures")
    parser.add_argument(
        "--page",
        type=Path,
        metavar="HTML",
        help="also write a page that needs nothing else: the figures, their curves and what the run draws",
    )


def _run(options: argparse.Namespace) -> int:
    evaluations = numbers_of_evaluations(options.evaluations)
    check_outputs({"--out": options.out, "--page": options.page})
    if options.statistics is not None and options.features is None:
        raise ValueError(f"--statistics: {options.statistics} would be used for nothing; give --features too")
    controls = controls_choice(options)
    _check_run(options)
    if options.likelihood:
        _check_likelihood(options)
    from trainer.experiment.evaluate import run
    from trainer.observe.measurement import MeasurementSpec

    spec = MeasurementSpec(
        evaluations=evaluations,
        num=options.num,
        seed=options.seed,
        likelihood=options.likelihood,
        steps=options.steps,
        features=options.features,
        statistics=options.statistics,
        controls=controls,
    )
    return run(options.run_dir, spec, options.data_from, options.out, options.page)


def _check_run(options: argparse.Namespace) -> None:
    """Refuses options that are about flows for a run that builds objects."""
    names = ("likelihood", "data_from", "steps", "controls", "features", "statistics")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name, None)]
    if options.evaluations != EVALUATIONS:
        given.append("--evaluations")
    if given:
        from trainer.experiment.evaluate import check_options

        check_options(options.run_dir, given)


def _check_likelihood(options: argparse.Namespace) -> None:
    """Refuses more examples than are held out, and flows that are trained at one time."""
    from trainer.flow.objective import MongeMapConfig
    from trainer.sampling.trained import restored_flow

    flow = restored_flow(options.run_dir)[1].flow
    if flow is not None and isinstance(flow.objective, MongeMapConfig):
        raise ValueError(
            "--likelihood: it follows the velocity through all times, and flow.objective.kind monge_map trains the "
            "velocity at t = 0 alone; leave it out"
        )
    held_out = getattr(restored_flow(options.data_from or options.run_dir)[1].data, "held_out", options.likelihood)
    if options.likelihood > held_out:
        raise ValueError(
            f"--likelihood: {options.likelihood} is more than the {held_out} held-out examples; use {held_out} or less"
        )


EVALUATE = Verb(
    "evaluate",
    "measure a run. A flow: quality against function evaluations for the run's own sampler and Euler's, beside that of "
    "real examples; straightness, path energy, likelihood. A policy that builds objects: its Pareto front and how it "
    "follows preferences",
    "python -m trainer evaluate runs/toy --evaluations 1,5,20 --num 1000 --out evaluation.json --page evaluation.html",
    _add_arguments,
    _run,
    "The averaged weights of the newest complete checkpoint draw on this process alone. Distances are measured "
    "on samples without guidance, class accuracy on samples with the run's own guidance. Of a policy that builds "
    "objects, --num are built for each of a lattice of preferences: hypervolume, R2, diversity, and where all objects "
    "can be listed how far the policy's distribution is from the one that it is to learn, exactly.",
    outputs=lambda options: [
        (OutputFile("--out", ("flowfabric.evaluation/", "flowfabric.objects/")), options.out),
        (OutputFile("--page", (page_mark("evaluate"),)), options.page),
    ],
)
