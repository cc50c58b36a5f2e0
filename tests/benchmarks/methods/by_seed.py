"""The command line of a benchmark that does the same with every seed, each in a process of its own."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

SEEDS = (0, 1, 2)
Result = TypeVar("Result")


def parser(description: str | None) -> ArgumentParser:
    """A parser of `--seeds` and `--jobs`.

    Args:
        description: what the benchmark shows.
    """
    made = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    made.add_argument("--jobs", type=int, default=1, help="seeds at a time, each in a process (default: 1)")
    return made


def for_seeds(options: Namespace, run: Callable[[int], Result]) -> list[Result]:
    """What `run` returns for each seed, in the order of the seeds.

    Args:
        options: of the command line.
        run: a function of a module, so that another process finds it by its name.
    """
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(run, options.seeds))
