"""Checks of options that several verbs take."""

import argparse
import os
from pathlib import Path

from netsim.foundation.refusal import Refusal


def cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_no_processes(jobs: int) -> None:
    """Refuses a number of processes below one."""
    if jobs < 1:
        raise Refusal("command line", "--jobs", f"must be at least 1 ({jobs})", "use 1 or more")


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds the option that lets a verb write into a folder with other content."""
    parser.add_argument(
        "--overwrite", action="store_true", help="write into the folder although something else has written there"
    )


def refuse_foreign(folder: Path, verb: str, mark: str, overwrite: bool, option: str = "--out") -> None:
    """Refuses an output folder that is a file, or that contains something and not from this verb.

    Args:
        folder: The folder.
        verb: Name of the verb.
        mark: Pattern of a path that each folder of the verb contains.
        overwrite: Whether any folder is taken.
        option: Option that names the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise Refusal("command line", option, f"is a file ({folder})", "name a folder")
    if overwrite or not folder.exists() or any(folder.glob(mark)):
        return
    first = next(iter(sorted(path.name for path in folder.iterdir())), None)
    if first is not None:
        problem = f"{folder} was not written by {verb} and is not empty ({first})"
        raise Refusal("command line", option, problem, "name a new folder, or give --overwrite")


def refuse_folder(file: Path) -> None:
    """Refuses an output file that is a folder."""
    if file.is_dir():
        raise Refusal("command line", "--out", f"is a folder ({file})", "name a file")
