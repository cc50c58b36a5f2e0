"""check: a look at a configuration before anything starts."""

import argparse

from trainer.command.verb import Verb, add_configuration


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_configuration(parser)
    parser.add_argument("--world-size", type=int, default=1, metavar="W", help="ranks of the run (default: 1)")
    parser.add_argument(
        "--fit", metavar="SIZE", help="propose the cheapest settings with which a rank fits into this memory, as 80GB"
    )
    parser.add_argument(
        "--all", action="store_true", help="also print every setting, defaults included, and every collective of a step"
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.experiment.check import run

    return run(options.config, options.overrides, options.world_size, options.fit, whole=options.all)


CHECK = Verb(
    "check",
    "validate a configuration without starting anything: layout, parameters, memory, bytes per step, exports",
    "python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
    _add_arguments,
    _run,
)
