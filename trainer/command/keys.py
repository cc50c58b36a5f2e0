"""keys: what a configuration may say."""

import argparse

from trainer.command.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prefix",
        nargs="?",
        metavar="PREFIX",
        help="show only the keys that begin so, with all that is said of each: optim, flow.path, data.shards (the keys "
        "of one kind of data), restore or edit (those of a request of that verb)",
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.experiment.keys import run

    return run(options.prefix)


KEYS = Verb(
    "keys",
    "list every key of a run configuration: what it takes, its default, its unit and what it means",
    "python -m trainer keys optim",
    _add_arguments,
    _run,
    "One line a key where the output is piped, for grep. The same is on the page configs/README.md; editors complete "
    "keys from configs/schemas/run.schema.json, which the first line of each file in configs names.",
    reads_runs=False,
)
