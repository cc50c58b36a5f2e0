"""train: the training of a run, or what is left of it."""

import argparse

from netsim.foundation.outputs import add_overwrite
from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument(
        "--verify-data",
        action="store_true",
        help="compare the whole content of the data, not a sample, with an earlier start that did (run.verify_data)",
    )
    parser.add_argument("--stage", metavar="NAME", help="only this one of the configuration's stages (default: all)")
    add_overwrite(parser)


def _run(options: argparse.Namespace) -> int:
    from trainer.experiment.train import run

    overrides = [*options.overrides, *(["run.verify_data=true"] if options.verify_data else [])]
    return run(options.config, overrides, options.stage, overwrite=options.overwrite)


TRAIN = Verb(
    "train",
    "train a run, or resume it from its newest complete checkpoint",
    "torchrun --nproc-per-node 2 -m trainer train configs/runs/digits_moe.yaml optim.steps=200 run.dir=runs/a",
    _add_arguments,
    _run,
    "Stages run one after the other, each in its own folder below run.dir; those that are finished are skipped.",
)
