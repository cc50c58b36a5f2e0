"""Ctrl-C, typed at a terminal while a run trains: it saves, in one line."""

import os
import pty
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.docker.scripts import LAUNCH, ROOT

pytestmark = pytest.mark.slow
WAIT_S = 200.0
TRAINED = ("configs/runs/toy.yaml", "optim.steps=1000000", "evaluate.every=null", "sample.every=null")
TRAIN = ("-m", "trainer", "train", *TRAINED, "observe.log_every=1000000")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STARTS = {
    "one process": [sys.executable, *TRAIN],
    "torchrun": [sys.executable, *TORCHRUN, *TRAIN],
    "launch.sh": [str(LAUNCH), "--ranks-per-node", "2", *TRAIN[3:]],
}


def pressed(command: Sequence[str], folder: Path) -> tuple[int, list[str]]:
    """Runs a command at a terminal and presses Ctrl-C once its first step is taken.

    Returns:
        Its exit code, and the lines that it wrote from then on.
    """
    log = folder / "log"
    log.touch()
    process, terminal = pty.fork()
    if process == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(ROOT)
        os.environ.update(OMP_NUM_THREADS="1", PYTHON=sys.executable)
        os.execv(shutil.which(command[0]) or command[0], [*command, f"run.dir={folder / 'run'}"])
    try:
        until = time.monotonic() + WAIT_S
        while not re.search(r"^step +1/", log.read_text(), re.MULTILINE):
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        time.sleep(1.0)
        before = len(log.read_text().splitlines())
        os.write(terminal, b"\x03")
        while time.monotonic() < until:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), log.read_text().splitlines()[before:]
            time.sleep(0.1)
        raise AssertionError(log.read_text())
    finally:
        os.close(terminal)  # hangs up on what is left


@pytest.mark.parametrize("way", STARTS)
def test_ctrl_c_saves_in_one_line(way: str, tmp_path: Path) -> None:
    code, lines = pressed(STARTS[way], tmp_path)
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step_"))
    farewell = f"{tmp_path / 'run'}: stopped by Ctrl-C; saved at step {step}; start it again to resume"
    assert (saved / "COMPLETE").exists()
    assert step > 1
    match way:
        case "one process":
            assert (code, lines) == (75, [farewell])
        case "launch.sh":
            assert (code, lines) == (75, [f"launch.sh: {farewell}"])
        case _:  # torchrun has a traceback and a code of its own
            assert code == 1
            assert [line for line in lines if "stopped by" in line] == [farewell]
            assert len(lines) < 35
            assert lines[-1].endswith("got signal: 2") or lines[-2].endswith("got signal: 2")
