"""features: a feature extractor made of a small classifier."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile
from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument(
        "--stage", metavar="NAME", help="stage whose data are classified (default: the first that trains)"
    )
    parser.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=[64],
        metavar="WIDTH",
        help="widths of the hidden layers; the outputs of the last are the features",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the classifier (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.evaluation.feature_classifier import run
    from trainer.experiment.stage import ConfiguredStage, chosen, load_stages

    stages = load_stages(options.config, options.overrides)
    first = next((stage.name for stage in stages if stage.trains), None)
    stage = chosen(stages, first if options.stage is None else options.stage)
    if not isinstance(stage, ConfiguredStage):
        raise ValueError(f"--stage: {stage.name} draws pairs and has no data of its own; name a stage that trains")
    return run(stage.config().data, options.hidden, options.seed, options.out)


FEATURES = Verb(
    "features",
    "train a small classifier on the data of a configuration and write its hidden layers as a feature extractor",
    "python -m trainer features configs/methods/blockwise.yaml --out runs/blockwise/teacher.safetensors",
    _add_arguments,
    _run,
    "Another run aligns its features with them by flow.objective={kind: aligned, teacher: FILE}, and samples are "
    "compared by them with sample --quality --features FILE.",
    outputs=lambda options: [(OutputFile("--out", ("flowfabric.features/",)), options.out)],
)
