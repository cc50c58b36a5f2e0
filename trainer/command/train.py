"""train: the training of a run, or what is left of it."""

import argparse

from trainer.command.verb import Verb, add_configuration


def _run(options: argparse.Namespace) -> int:
    from trainer.train import run

    return run(options.config, options.overrides)


TRAIN = Verb(
    "train",
    "train a run, or resume it from its newest complete checkpoint",
    "torchrun --nproc-per-node 2 -m trainer train configs/runs/digits_moe.yaml optim.steps=200 run.dir=runs/a",
    add_configuration,
    _run,
)
