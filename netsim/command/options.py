"""Checks of options that several verbs take."""

import os
from pathlib import Path

from netsim.errors import InputError


def cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_no_processes(jobs: int) -> None:
    """Refuses a number of processes below one."""
    if jobs < 1:
        raise InputError("command line", "--jobs", f"must be at least 1 ({jobs})", "use 1 or more")


def refuse_file(folder: Path, option: str = "--out") -> None:
    """Refuses an output folder that is a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError("command line", option, f"is a file ({folder})", "name a folder")


def refuse_folder(file: Path) -> None:
    """Refuses an output file that is a folder."""
    if file.is_dir():
        raise InputError("command line", "--out", f"is a folder ({file})", "name a file")
