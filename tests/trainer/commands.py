"""Calls the command line, in this process or another, and looks at what it says and leaves."""

from pathlib import Path

import pytest

from tests.forked import ROOT, command
from trainer.__main__ import main

DIGITS = str(ROOT / "configs" / "runs" / "digits_moe.yaml")
GPT = str(ROOT / "configs" / "runs" / "gpt_moe.yaml")
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
    code = main(words)
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


def trained(folder: Path, config: str, *overrides: str) -> Path:
    """Trains in one process of its own, without a launcher.

    Args:
        folder: of the run.
        config: configuration file.
        *overrides: ``dotted.key=value``.

    Returns:
        The folder.
    """
    result = command("train", config, *overrides, f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder
