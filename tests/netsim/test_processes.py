"""Processes of the command line: workers end with the one that started them, and an interrupt is one line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.each import each
from tests.netsim.documents import collective_of, scenario_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are read from /proc")

LONG: dict[str, Any] = scenario_of(
    4, 4, 8, collective_of("all_to_all", "1GB"), transports=["ecmp", "spray_random"], engine="simpy"
)
"""Far from over when a test is."""
MOST_S = 120.0
_POLL_S = 0.05
_INTERRUPT_AT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


@contextmanager
def started(words: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, which listens to interrupts, and whose processes do not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        for left in (process.pid, *session(process.pid)):
            try:
                os.kill(left, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def session(leader: int) -> list[int]:
    """Processes of a session besides its leader, without those that have ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of_session = status.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of_session) == leader and state != "Z" and int(status.parent.name) != leader:
            found.append(int(status.parent.name))
    return found


def waited_for(what: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    end_s = time.monotonic() + MOST_S
    while not what():
        if time.monotonic() > end_s:
            return False
        time.sleep(_POLL_S)
    return True


def busy(process: subprocess.Popen[str]) -> Callable[[], bool]:
    """Whether two of its processes have begun to load, or to simulate."""

    def look() -> bool:
        return process.poll() is None and sum(_cpu_ticks(pid) > 0 for pid in session(process.pid)) >= 2

    return look


def _cpu_ticks(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except (OSError, ValueError):
        return 0


def commands(folder: Path) -> dict[str, list[str]]:
    """Commands with two workers that are busy for long."""
    (folder / "s.yaml").write_text(json.dumps(LONG), encoding="utf-8")
    sweep = {"format": "flowfabric.sweep/1", "scenario": "s.yaml", "grid": {"seeds": [[0], [1]]}}
    (folder / "sweep.yaml").write_text(json.dumps(sweep), encoding="utf-8")
    return {
        "compare": ["netsim", "compare", "s.yaml", "--jobs", "2", "--out", "out"],
        "sweep": ["netsim", "sweep", "sweep.yaml", "--jobs", "2", "--out", "out"],
    }


@each("verb", ["compare", "sweep"])
def test_workers_end_with_a_parent_that_is_killed(verb, tmp_path):
    with started(commands(tmp_path)[verb], tmp_path) as process:
        assert waited_for(busy(process)), process.communicate()
        process.kill()
        assert waited_for(lambda: not session(process.pid)), session(process.pid)


@each("verb", ["compare", "sweep"])
def test_an_interrupt_of_all_processes_is_one_line(verb, tmp_path):
    with started(commands(tmp_path)[verb], tmp_path) as process:
        assert waited_for(busy(process)), process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=MOST_S)
        assert process.returncode == 130, said
        assert said.splitlines()[-1:] == [f"netsim {verb}: interrupted"]
        assert "Traceback" not in said
        assert waited_for(lambda: not session(process.pid))


@each(
    "words, loaded",
    [
        ("netsim compare s.yaml --out out", "netsim.command.program"),
        ("netsim compare s.yaml --out out", "netsim.engine._core"),
        ("moe place none.npz --nodes 2 --ranks-per-node 2 --out p.json", "numpy"),
    ],
)
def test_an_interrupt_while_loading_is_one_line(words, loaded, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPT_AT, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(json.dumps(LONG), encoding="utf-8")
    with started(words.split(), tmp_path, INTERRUPT_AT=loaded) as process:
        _, said = process.communicate(timeout=MOST_S)
    assert (process.returncode, len(said.splitlines())) == (130, 1), said
    assert said.endswith(": interrupted\n")
