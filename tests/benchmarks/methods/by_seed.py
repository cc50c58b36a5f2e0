"""The command line of a benchmark that does the same with every seed, each in a process of its own.

What a benchmark picks, such as a learning rate, it picks on `--pick-seeds`, and reports on `--seeds`.
"""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

SEEDS, PICK_SEEDS = (0, 1, 2), (10, 11)
Result = TypeVar("Result")


def seeds_parser(description: str | None) -> ArgumentParser:
    """A parser of `--seeds`, of a benchmark that takes one after the other; `description` is what it shows."""
    made = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    return made


def parser(description: str | None) -> ArgumentParser:
    """A parser of `--seeds` and `--jobs`."""
    made = seeds_parser(description)
    made.add_argument("--jobs", type=int, default=1, help="seeds at a time, each in a process (default: 1)")
    return made


def picking_parser(description: str | None) -> ArgumentParser:
    """A parser of `--seeds`, `--jobs` and `--pick-seeds`."""
    made = parser(description)
    made.add_argument("--pick-seeds", type=int, nargs="+", default=PICK_SEEDS, help="default: 10 11")
    return made


def parse_apart(made: ArgumentParser) -> Namespace:
    """Parses the command line, and refuses seeds that are both picked on and reported."""
    options = made.parse_args()
    if both := set(options.seeds) & set(options.pick_seeds):
        made.error(f"--pick-seeds: {min(both)} is reported too; pick on other seeds")
    return options


def for_seeds(options: Namespace, run: Callable[[int], Result], seeds: Sequence[int] | None = None) -> list[Result]:
    """What `run` returns for each seed, in the order of the seeds.

    Args:
        options: of the command line.
        run: a function of a module, so that another process finds it by its name.
        seeds: in place of those of the command line.
    """
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(run, options.seeds if seeds is None else seeds))
