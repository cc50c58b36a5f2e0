"""Two nodes that differ are refused before the first step, in one line each, and are not started again.

``pytest -m slow tests/multinode/test_mismatches.py -s`` starts torchrun twice on this machine for each kind.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.multinode.mismatches import MISMATCHES, ROOT, Ended, laid_out, started, torchrun
from tests.multinode.namespaces import fabric, obstacle
from tests.trainer.commands import contents

WHY_NOT = obstacle()


def check_refused(name: str, ended: Ended) -> None:
    """One line on each node, the same; every rank was started once and ended with 2."""
    first, second = ended.lines()
    assert first == second, ended.output
    assert len(first) == 1, ended.output
    assert re.search(MISMATCHES[name][1], first[0]), first[0]
    assert {restarts for restarts, _, _ in ended.ranks} == {0}
    assert {code for _, _, code in ended.ranks} == {2}
    print(
        f"{name}: {ended.seconds:.1f} s, {ended.cpu_s:.1f} s of processors at load {os.getloadavg()[0]:.1f}; {first[0]}"
    )


def left(folder: Path) -> dict[str, bytes | None]:
    """What is in the folders of the nodes and of the run, without what Python compiles."""
    return {
        path: content
        for path, content in contents(folder).items()
        if "__pycache__" not in path and not path.startswith("notes")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MISMATCHES)
def test_torchrun_tries_no_restart(name: str, tmp_path: Path) -> None:
    nodes = laid_out(name, tmp_path)
    before = left(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    check_refused(name, started(nodes, tmp_path, torchrun(nodes, port)))
    assert left(tmp_path) == before


@pytest.mark.parametrize("name", ["run folder", pytest.param("code", marks=pytest.mark.slow)])
@pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")
def test_launch_sh_ends_with_2_and_starts_nothing_again(name: str, tmp_path: Path) -> None:
    nodes = laid_out(name, tmp_path)
    before = left(tmp_path)
    with fabric(1, 1, 2, 1000) as made:

        def start(number: int, environment: dict[str, str]) -> "subprocess.Popen[str]":
            command = [str(ROOT / "docker" / "launch.sh"), "--nodes", "2", "--node-rank", str(number)]
            command += ["--master", made.address(0), "--ranks-per-node", "1", "--restart", "failed"]
            return made.start(
                number,
                [*command, *nodes[number].words],
                env={**environment, "PYTHON": sys.executable},
                cwd=nodes[number].folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )

        ended = started(nodes, tmp_path, start)
    assert list(ended.codes) == [2, 2]
    assert "starts again" not in "".join(ended.output)
    check_refused(name, ended)
    assert left(tmp_path) == before
