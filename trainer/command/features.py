"""features: a feature extractor made of a small classifier."""

import argparse
from pathlib import Path

from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--stage", metavar="NAME", help="whose data (default: the first stage that trains)")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[64], metavar="WIDTH", help="hidden layers; the last are the features"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the classifier (default: 0)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")


def _run(options: argparse.Namespace) -> int:
    from trainer.features import run

    return run(options.config, options.overrides, options.stage, options.hidden, options.seed, options.out)


FEATURES = Verb(
    "features",
    "train a small classifier on the data of a configuration and write its hidden layers as a feature extractor",
    "python -m trainer features configs/methods/blockwise.yaml --out runs/blockwise/teacher.safetensors",
    _add_arguments,
    _run,
    "Another run aligns its features with them by flow.objective={kind: aligned, teacher: FILE}, and samples are "
    "compared by them with sample --quality --features FILE.",
)
