"""Calls the command line, in this process or another, and looks at what it says and leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.__main__ import main

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs" / "runs" / "digits_moe.yaml")
GPT = str(ROOT / "configs" / "runs" / "gpt_moe.yaml")
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
ALONE = ("parallel.expert=1", "trace.steps=[]", "sample.every=null", "optim.steps=1")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command that must be refused.

    Args:
        capsys: pytest's capture.
        *arguments: the command line.

    Returns:
        The one line on standard error, without `trainer VERB: `.
    """
    words = [str(argument) for argument in arguments]
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as stop:  # argparse
        code = stop.code
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1, output.err
    start = f"trainer {words[0]}: "
    assert output.err.startswith(start)
    return output.err.removeprefix(start).rstrip("\n")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder and what its file holds, to compare before and after."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, without a launcher.

    Args:
        *arguments: the command line.
    """
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT,
        env={**{name: value for name, value in os.environ.items() if name not in LAUNCHED}, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def trained(folder: Path, config: str, *overrides: str) -> Path:
    """Trains in one process of its own, without a launcher.

    Args:
        folder: of the run.
        config: configuration file.
        *overrides: ``dotted.key=value``.

    Returns:
        The folder.
    """
    result = start("train", config, *overrides, f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder
