"""A child that is killed with its parent."""

import signal
import subprocess
import sys

import pytest

from tests.forked import alive, eventually

PARENT = """
import subprocess, sys
from trainer.distributed.process.children import killed_with_parent
command = [sys.executable, "-c", "print('runs', flush=True); import time; time.sleep(60)"]
child = subprocess.Popen(killed_with_parent(command))
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
    assert eventually(lambda: not alive(int(lines[0])))
