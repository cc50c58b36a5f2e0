"""A tethered command ends with the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys
from trainer.process.tether import tethered
child = subprocess.Popen(tethered([sys.executable, "-c", "print('runs', flush=True); import time; time.sleep(60)"]))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such bond")
def test_a_killed_parent_takes_its_tethered_child_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = sorted(parent.stdout.readline().strip() for _ in range(2))
    assert lines[1] == "runs", "it has become the command"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while _alive(int(lines[0])) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(int(lines[0]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
