"""export: averaged weights in a folder of their own."""

import argparse
from pathlib import Path

from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")


def _run(options: argparse.Namespace) -> int:
    from trainer.checkpoint.export import run

    return run(options.run_dir, options.out)


EXPORT = Verb(
    "export",
    "copy the averaged weights of a run's newest intact checkpoint to a folder of their own, with a model card",
    "python -m trainer export runs/digits_moe --out digits_moe",
    _add_arguments,
    _run,
    "The folder holds model.safetensors, from which model.init_from starts another run, and config.yaml.",
)
