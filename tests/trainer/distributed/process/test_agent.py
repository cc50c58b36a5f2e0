"""A node's part of a run from the meeting to its exit code, with stand-ins for the ranks."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.distributed.process.rendezvous_host import listener

ROOT = Path(__file__).parents[4]
MASTER = "127.0.0.1"
NOTHING = "nothing new was saved; start all 2 nodes again to resume"
BEGINNING = """
import os, pathlib, signal, sys, time
from trainer.distributed.process.exit_status import conclude, refuse
here = pathlib.Path(sys.argv[1])
rank, starts = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
def ready():
    (here / f"ready_{rank}_{starts}").touch()
"""
REFUSES = """
if rank == 1:
    refuse("wrong"); sys.exit(2)
time.sleep(60)
"""
SAVES = """
def told(*_):
    conclude(75, "stopped; saved at step 3"); sys.exit(0)
signal.signal(signal.SIGTERM, told); signal.signal(signal.SIGINT, told)
ready()
for _ in range(1200):
    time.sleep(0.05)  # short: a signal just before one long sleep is handled behind it
"""
"""Where one rank is told, the others learn it by their next step: here by the signal that their launcher sends."""
HAS_NOTHING_TO_SAVE = "ready(); time.sleep(60)"
DIES_ONCE = """
if rank == 1 and starts == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if starts == 0:
    time.sleep(60)
"""


class Nodes:
    """Agents on this machine.

    Args:
        folder: where the ranks find their program and leave marks.
        nodes: of the run.
        ranks_per_node: processes on each.
    """

    def __init__(self, folder: Path, nodes: int = 1, ranks_per_node: int = 1) -> None:
        self.folder, self.nodes, self.ranks_per_node = folder, nodes, ranks_per_node
        with listener(MASTER, 0) as free:
            self.port = free.getsockname()[1]
        self.started: list[subprocess.Popen[str]] = []

    def start(self, node: int, body: str = "", **options: object) -> "subprocess.Popen[str]":
        (self.folder / "rank.py").write_text(BEGINNING + textwrap.dedent(body))
        given: dict[str, object] = {"master": MASTER, "master_port": self.port, "ranks_per_node": self.ranks_per_node}
        given |= {"nodes": self.nodes, "node_rank": node, **options}
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
        self.started.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "trainer.distributed.process.agent", *words),
                    *("--", str(self.folder / "rank.py"), str(self.folder)),
                ],
                cwd=ROOT,
                env={**os.environ, **variables, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self.started[-1]

    def wait_for(self, *marks: str) -> None:
        until = time.monotonic() + 90
        while not all((self.folder / mark).exists() for mark in marks):
            assert time.monotonic() < until, marks
            time.sleep(0.05)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Nodes]:
    yield from _closing(Nodes(tmp_path, ranks_per_node=2))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Nodes]:
    yield from _closing(Nodes(tmp_path, nodes=2))


def _closing(nodes: Nodes) -> Iterator[Nodes]:
    yield nodes
    for process in nodes.started:
        process.kill()
        process.wait()


def ended(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    _, said = process.communicate(timeout=90)
    return process.returncode, said.splitlines()


def test_a_port_in_use_is_one_line_and_2(two: Nodes) -> None:
    with socket.socket() as other:
        other.bind((MASTER, two.port))
        code, lines = ended(two.start(0))
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"launch.sh: --master-port: {two.port} on {MASTER} is in use by another program; give")


def test_a_master_elsewhere_is_one_line_and_2(two: Nodes) -> None:
    code, lines = ended(two.start(0, master="192.0.2.1"))
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("launch.sh: --master: 192.0.2.1 is not an address of this machine")


def test_a_second_node_of_a_number_ends_and_a_stop_while_waiting_says_that_nothing_was_saved(two: Nodes) -> None:
    first = two.start(0)
    _connectable(two.port)
    second = two.start(0)
    code, lines = ended(second)
    assert (code, len(lines)) == (2, 1)
    assert lines[0].startswith("launch.sh: --node-rank: node 0 is here already (process ")
    code, lines = ended(two.start(1, nodes=3))
    assert (code, lines) == (2, ["launch.sh: --nodes: 3 here, but 2 on node 0; give all nodes the same"])
    first.send_signal(signal.SIGINT)
    assert ended(first) == (130, [f"launch.sh: stopped by Ctrl-C; {NOTHING}"])


@pytest.mark.slow
def test_a_refusal_of_one_rank_is_2_and_is_not_tried_again(one: Nodes) -> None:
    assert ended(one.start(0, REFUSES, master_port=0)) == (2, [])


@pytest.mark.slow
def test_a_refusal_on_one_node_ends_all(two: Nodes) -> None:
    processes = [two.start(node, REFUSES) for node in (0, 1)]
    results = [ended(process) for process in processes]
    assert [code for code, _ in results] == [2, 2]
    refusing = 0 if not results[0][1] else 1  # rank 1 is on either node
    assert results[refusing][1] == []
    assert results[1 - refusing][1] == [f"launch.sh: node {refusing} has ended: wrong"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_saves_is_75_and_one_line_on_every_node(two: Nodes, number: signal.Signals) -> None:
    processes = [two.start(node, SAVES) for node in (0, 1)]
    two.wait_for("ready_0_0", "ready_1_0")
    processes[1].send_signal(number)
    for process in processes:
        assert ended(process) == (75, ["launch.sh: stopped; saved at step 3"])


@pytest.mark.slow
def test_a_stop_with_nothing_to_save_ends_all_nodes(two: Nodes) -> None:
    processes = [two.start(node, HAS_NOTHING_TO_SAVE) for node in (0, 1)]
    two.wait_for("ready_0_0", "ready_1_0")
    processes[0].send_signal(signal.SIGTERM)
    line = f"stopped by SIGTERM; {NOTHING}"
    assert ended(processes[0]) == (143, [f"launch.sh: {line}"])
    assert ended(processes[1]) == (143, [f"launch.sh: node 0 has ended: {line}"])


@pytest.mark.slow
def test_a_rank_that_dies_is_named_and_started_again(one: Nodes) -> None:
    code, lines = ended(one.start(0, DIES_ONCE, master_port=0))
    assert code == 0
    assert len(lines) == 1
    assert lines[0].startswith("launch.sh: torchrun: failed (exitcode: -9) local_rank: 1")


@pytest.mark.slow
def test_a_rank_that_keeps_dying_is_named_at_the_end(one: Nodes) -> None:
    body = "sys.exit(5) if rank == 1 else time.sleep(60)"
    code, lines = ended(one.start(0, body, master_port=0, max_restarts=0))
    assert code == 1
    assert lines[-1] == "launch.sh: rank 1 ended with 5; the lines above say more"


def _connectable(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex((MASTER, port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nothing listens")
