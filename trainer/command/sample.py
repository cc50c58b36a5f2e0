"""sample: images or points that a run draws, or objects that it builds."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from netsim.foundation.outputs import OutputFile, OutputFolder
from trainer.command.options import add_drawing_options, controls_choice, request_of, sampler_choice
from trainer.command.verb import Verb

OF_OBJECTS = {"preferences": "--preference", "exponent": "--exponent"}
"""Options of runs that build objects."""
OF_FLOWS = {
    "classes": "--class",
    "captions": "--caption",
    **{name: f"--{name}" for name in ("encoder", "shape", "guidance", "sampler", "steps", "evaluations", "controls")},
    **{name: f"--{name}" for name in ("trace", "quality", "features", "statistics")},
}
"""Options of runs that follow a flow."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "--num",
        "--num-samples",
        type=int,
        help="images or points, the classes in turn (default: of each class as many as the run's own pictures show, of "
        "images 80 at most), or objects of each preference; torchrun lets the longer name alone pass",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help="draw this class alone, by its name or its number; give it again, or several with commas between them, "
        "for more (default: all)",
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="draw for this task of a run with routed adapters, by its name or its number (default: the tasks in turn, "
        "row by row)",
    )
    parser.add_argument(
        "--caption",
        dest="captions",
        action="append",
        default=[],
        metavar="TEXT",
        help="draw what this text says, by a run with flow.captions; give it again for more, which are drawn in turn "
        "(default: the captions of held-out examples)",
    )
    parser.add_argument("--encoder", type=Path, metavar="DIR", help="with --caption: folder of the run's text encoder")
    parser.add_argument(
        "--shape", metavar="H,W", help="height and width, of a run that learns several (default: its largest)"
    )
    parser.add_argument(
        "--preference",
        dest="preferences",
        action="append",
        default=[],
        metavar="W,W,...",
        help="of a run that builds objects: how much each of its objectives counts, in their order; give it again for "
        "more (default: those of the run's own files)",
    )
    parser.add_argument(
        "--exponent", type=float, help="of a run that builds objects for several exponents of the reward: which one"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="PNG",
        help="grid of images, one column a class, at most 2,000 pixels wide; or a plot of points; of a run that builds "
        "objects FILE.jsonl, with a picture beside it",
    )
    add_drawing_options(parser)
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="DIR",
        help="write what the ranks send meanwhile, and the experts that their tokens visit, to this folder",
    )
    parser.add_argument(
        "--quality",
        type=Path,
        metavar="JSON",
        help="also judge the images: share of them that a classifier of the real data takes for the class asked for, "
        "and the Fréchet distance on pixels of as many images drawn without guidance",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="with --quality: also take the Fréchet distance, precision and recall on features, by the network in this "
        "safetensors file; import-features makes one of published weights (of Inception: FID), features a small one",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="NPZ",
        help="with --features: statistics of the real examples, as the fid verb writes them or pytorch-fid and "
        "guided-diffusion publish them (default: of up to 10,000 training examples)",
    )


def _run(options: argparse.Namespace) -> int:
    if options.features is not None and options.quality is None:
        raise ValueError(f"--features: {options.features} would be used for nothing; give --quality too")
    if options.statistics is not None and options.features is None:
        raise ValueError(f"--statistics: {options.statistics} would be used for nothing; give --features too")
    sampler = sampler_choice(options)
    if _builds_objects(options.run_dir):
        return _build(options)
    _refuse(options, OF_OBJECTS, "draws examples and builds no objects")
    from trainer.evaluation.judgement import check_features, write_judgement
    from trainer.sampling.sample import DrawingRequest, drawing

    if isinstance(options.steps, Path) and options.quality is not None:
        _check_unguided(options.steps)
    if options.features is not None:
        check_features(options.features, options.run_dir, options.statistics)
    request = request_of(
        DrawingRequest,
        options,
        classes=tuple(options.classes),
        task=options.task,
        captions=tuple(options.captions),
        sampler=sampler,
        controls=controls_choice(options),
    )
    with drawing(request) as draws:
        examples = draws.examples(draws.guidance, options.trace)
        if examples is not None:
            draws.write(examples, options.out)
        if options.quality is not None:
            write_judgement(draws, examples, options.features, options.quality, options.statistics)
    return 0


def _builds_objects(run_dir: Path) -> bool:
    from trainer.experiment.built.objects import builds_objects

    return builds_objects(run_dir)


def _build(options: argparse.Namespace) -> int:
    """Builds objects, by a run that has learned a policy."""
    _refuse(options, OF_FLOWS, "builds objects and follows no flow")
    from trainer.experiment.built.objects import ObjectsRequest, run

    return run(request_of(ObjectsRequest, options, preferences=tuple(options.preferences)))


def _refuse(options: argparse.Namespace, foreign: Mapping[str, str], told: str) -> None:
    """Refuses options of other runs."""
    for name, option in foreign.items():
        if getattr(options, name) not in (None, []):
            raise ValueError(f"{option}: {options.run_dir} {told}; leave {option} out")


def _check_unguided(steps: Path) -> None:
    """Refuses grids for guidance, for judged samples are also drawn without any."""
    from trainer.flow.sampler.grid import StepsFile

    guidance = StepsFile.read(steps).guidance
    if guidance != 1:
        raise ValueError(
            f"--quality: it also draws without guidance, and {steps} was searched for guidance {guidance:g}; use "
            "--guidance 1 and a file for it"
        )


SAMPLE = Verb(
    "sample",
    "draw images from the averaged weights of a run's newest complete checkpoint, the classes in turn",
    "python -m trainer sample runs/digits_moe --class 3,8 --steps 20 --out grid.png",
    _add_arguments,
    _run,
    "A run that builds objects writes FILE.jsonl and FILE.png. "
    "A run that still trains may delete a checkpoint meanwhile; the next newest is taken then. "
    "Alone it holds every expert. Under torchrun the ranks share the network as those of the run did, each draws "
    "a part of the images, and the first one writes.",
    outputs=lambda options: [
        (OutputFolder("--trace", ("drawing.json",)), options.trace),
        (OutputFile("--quality", ('"run_sha256"',)), options.quality),
    ],
)
