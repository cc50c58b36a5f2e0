"""Whole runs under torchrun, and how two of them are compared."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.forked import ROOT
from trainer.observe.metrics import read_metrics
from trainer.observe.protocol import differs_between_equal_runs


def torchrun(*program: str, **environment: str) -> Any:
    """Runs a program on two ranks of this machine.

    Args:
        *program: what torchrun starts, and its arguments.
        **environment: variables that it gets besides.

    Returns:
        The finished process, its output as text.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [*command, *program], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


def timeless(path: Path) -> list[tuple[int, dict[str, float]]]:
    """The records of a metrics file without what depends on the clock and the machine."""
    return [
        (record.step, {name: value for name, value in record.values.items() if not differs_between_equal_runs(name)})
        for record in read_metrics(path)
    ]


def assert_equal_folders(one: Path, other: Path) -> None:
    """The same files with the same content, but for the configuration, which names the folder."""
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name in names:
        if name.name == "COMPLETE":
            first, second = (json.loads((folder / name).read_text()) for folder in (one, other))
            for marker in (first, second):
                del marker["files"]["config.yaml"], marker["sha256"]
            assert first == second
        elif name.name != "config.yaml":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
