"""A rank as a process: hangs, signals, launchers that die, folders that are still in use."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.forked import ROOT, alive, eventually
from trainer.distributed.run_folder import locked

WATCHED = """
import sys, threading
from pathlib import Path
from trainer.distributed.process.hang_detector import watchdog

def stuck_here():
    print("ready", flush=True)
    forever = threading.Semaphore(0)
    forever.acquire() if TIMEOUT else sys.stdin.read()

with watchdog(Path(sys.argv[1]), 7, TIMEOUT) as watch:
    watch.beat()
    stuck_here()
"""


def python(program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], env=variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_a_rank_that_hangs_tells_where_and_ends(tmp_path: Path) -> None:
    process = python(WATCHED.replace("TIMEOUT", "1.5"), str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    stacks = tmp_path / "debug" / "rank_00007_stacks.txt"
    assert errors == f"rank 7 hangs and ends; see {stacks}\n"
    assert "no step has ended for 1.5 s" in stacks.read_text()
    assert "stuck_here" in stacks.read_text()


def test_a_rank_tells_what_it_does_when_asked_and_goes_on(tmp_path: Path) -> None:
    process = python(WATCHED.replace("TIMEOUT", "None"), str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    stacks, flights = (tmp_path / "debug" / f"rank_00007_{name}" for name in ("stacks.txt", "flights.json"))
    assert eventually(flights.exists)
    assert "stuck_here" in stacks.read_text()
    assert "entries" in json.loads(flights.read_text()) or "version" in json.loads(flights.read_text())
    assert process.poll() is None
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
@pytest.mark.parametrize("launched", [True, False])
def test_a_rank_ends_with_its_agent_and_without_one_outlives_its_shell(launched: bool) -> None:
    rank = (
        "import sys, time; from trainer.distributed.process.signals import end_with_launcher; end_with_launcher();"
        "print('ready', flush=True); time.sleep(60)"
    )
    agent = "import subprocess, sys, time; rank = subprocess.Popen([sys.executable, '-c', sys.argv[1]]);"
    agent += "print(rank.pid, flush=True); time.sleep(60)"
    environment = {"TORCHELASTIC_RUN_ID": "x"} if launched else {}
    process = python(agent, rank, **environment)
    assert process.stdout is not None
    lines = {process.stdout.readline(), process.stdout.readline()}
    number = int(next(line for line in lines if line != "ready\n"))
    process.kill()
    process.wait()
    assert eventually(lambda: not alive(number)) if launched else alive(number)
    if not launched:
        os.kill(number, signal.SIGKILL)


def test_a_start_waits_for_an_earlier_one_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = threading.Event()
    released = threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            held.set()
            released.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.3, released.set).start()
    with locked(tmp_path):
        assert released.is_set()
    thread.join()
    assert capsys.readouterr().err == f"{tmp_path}: in use; waits up to 5 s for an earlier start to end\n"
