"""python -m trainer: train, check, sample and trace."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from trainer.engine.groups import Launch


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: command line without the program; None: the process's own.

    Returns:
        0 done, 1 failed, 2 wrong input.
    """
    warnings.filterwarnings("ignore", module=r"megatron\.")  # one warning for each accelerator library that is absent
    options = _parser().parse_args(arguments)
    try:
        return options.verb(options)
    except ValueError as error:
        if options.debug:
            raise
        if Launch.from_environment().local_rank == 0:
            print(f"trainer {options.name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _train(options: argparse.Namespace) -> int:
    from trainer.train import run

    return run(options.config, options.overrides)


def _check(options: argparse.Namespace) -> int:
    from trainer.check import run

    return run(options.config, options.overrides, options.world_size)


def _sample(options: argparse.Namespace) -> int:
    from trainer.sample import run

    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train flow-matching and mixture-of-experts models on one or many nodes.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error says what and how to mend it).",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = _verb(
        verbs,
        "train",
        _train,
        "train a run, or resume it from its newest complete checkpoint",
        "torchrun --nproc-per-node 2 -m trainer train configs/runs/digits_moe.yaml optim.steps=200 run.dir=runs/a",
    )
    _configuration(train)

    check = _verb(
        verbs,
        "check",
        _check,
        "resolve and validate a configuration without starting anything: layout, parameters, bytes per step",
        "python -m trainer check configs/runs/digits_moe.yaml --world-size 2",
    )
    _configuration(check)
    check.add_argument("--world-size", type=int, default=1, metavar="W", help="ranks of the run (default: 1)")
    return parser


def _verb(verbs, name: str, verb, summary: str, example: str) -> argparse.ArgumentParser:  # noqa: ANN001
    parser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"Example: {example}"
    )
    parser.set_defaults(verb=verb, name=name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an input error")
    return parser


def _configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML configuration; configs/runs holds examples")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, for example optim.lr=1e-3"
    )


if __name__ == "__main__":
    sys.exit(main())
