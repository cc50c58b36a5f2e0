"""sample: images or points that a run draws."""

import argparse
from pathlib import Path

from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument(
        "--num",
        "--num-samples",
        type=int,
        default=80,
        help="images, the same number of each class (default: 80); torchrun lets the longer name alone pass",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="grid of images, one column a class")
    parser.add_argument(
        "--guidance", type=float, help="scale of classifier-free guidance (default: the run's sample.guidance)"
    )
    parser.add_argument(
        "--shape", metavar="H,W", help="height and width, of a run that learns several (default: its largest)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: 0)")
    parser.add_argument(
        "--steps",
        type=Path,
        metavar="JSON",
        help="draw by Euler's method at the times of this file of the steps verb (default: by the run's own sampler)",
    )
    parser.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help="with --steps: evaluations of the field, for which the file has times (default: the most)",
    )
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
        help="with --quality: also take the Fréchet distance on features, by the network in this safetensors file; "
        "trainer.model.feature_extractor describes such a file, and python -m trainer features makes one",
    )


def _run(options: argparse.Namespace) -> int:
    if options.features is not None and options.quality is None:
        raise ValueError(f"--features: {options.features} would be used for nothing; give --quality too")
    if options.trace is not None and options.trace.exists() and not options.trace.is_dir():
        raise ValueError(f"--trace: {options.trace} is a file; name a folder")
    if options.evaluations is not None and options.steps is None:
        raise ValueError(f"--evaluations: {options.evaluations} chooses among the times of a file; give --steps too")
    from trainer.evaluation.judgement import check_features, write_judgement
    from trainer.sampling.sample import drawing

    if options.steps is not None and options.quality is not None:
        _check_unguided(options.steps)
    if options.features is not None:
        check_features(options.features, options.run_dir)
    grids = {"steps": options.steps, "evaluations": options.evaluations, "shape": options.shape}
    with drawing(options.run_dir, options.num, options.guidance, options.seed, **grids) as draws:
        examples = draws.examples(draws.guidance, options.trace)
        if examples is not None:
            draws.write(examples, options.out)
        if options.quality is not None:
            write_judgement(draws, examples, options.features, options.quality)
    return 0


def _check_unguided(steps: Path) -> None:
    """Refuses grids for guidance, for judged samples are also drawn without any."""
    from trainer.flow.sampler.steps_file import StepsFile

    guidance = StepsFile.read(steps).guidance
    if guidance != 1:
        raise ValueError(
            f"--quality: it also draws without guidance, and {steps} was searched for guidance {guidance:g}; use "
            "--guidance 1 and a file for it"
        )


SAMPLE = Verb(
    "sample",
    "draw images from the averaged weights of a run's newest complete checkpoint, the classes in turn",
    "python -m trainer sample runs/digits_moe --num 80 --out grid.png",
    _add_arguments,
    _run,
    "Alone it holds every expert. Under torchrun the ranks share the network as those of the run did, each draws "
    "a part of the images, and the first one writes.",
)
