"""A command that is stopped: how soon it ends, with which code, and what it says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PROGRAM = """
import ctypes, pathlib, sys, time
from trainer.distributed.process import signals
from trainer.distributed.process.signals import StopRequest

signals.UNWIND_S, signals.APART_S, signals.HAND_ON_S = 0.3, 0.3, 0.0
mark = pathlib.Path(sys.argv[1])

def ready():
    mark.touch()

def work():
    {body}

with signals.interruptible(lambda words, number: print(words, number, file=sys.stderr, flush=True)):
    work()
"""
TIDIES_UP = """try:
        ready(); [time.sleep(0.05) for _ in range(400)]
    finally:
        mark.with_name('tidy').touch()"""
INSIDE_A_LIBRARY = "ready(); ctypes.CDLL(None).sleep(20)"
"""A call that no exception of Python interrupts, as the wait for another rank is."""
TURNS_IT_INTO_AN_ERROR = """try:
        ready(); [time.sleep(0.05) for _ in range(400)]
    except BaseException as error:
        raise RuntimeError('the others are gone') from error"""
LISTENS = """stop = StopRequest()
    with stop.listening():
        ready()
        until = time.monotonic() + 20
        while time.monotonic() < until and not (stop.made and mark.with_name('saved').exists()):
            time.sleep(0.01)
    sys.exit(75 if stop.made else 1)"""


def started(mark: Path, body: str, **variables: str) -> "subprocess.Popen[str]":
    """The program, as far as it is ready."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{body}", body), str(mark)],
        cwd=ROOT,
        env={**environment, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return process


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=15)  # less than the program sleeps
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGUSR2, "SIGUSR2")]
)
def test_the_main_thread_tidies_up_and_one_line_is_said(tmp_path: Path, number: signal.Signals, name: str) -> None:
    process = started(tmp_path / "mark", TIDIES_UP)
    process.send_signal(number)
    assert ended(process) == (128 + number, f"stopped by {name} {number.value}\n")
    assert (tmp_path / "tidy").exists()


def test_a_main_thread_inside_a_library_does_not_keep_the_process(tmp_path: Path) -> None:
    process = started(tmp_path / "mark", INSIDE_A_LIBRARY)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "stopped by SIGTERM 15\n")


def test_an_error_that_comes_of_the_interrupt_is_not_shown(tmp_path: Path) -> None:
    process = started(tmp_path / "mark", TURNS_IT_INTO_AN_ERROR)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (130, "stopped by Ctrl-C 2\n")


def test_who_listens_goes_on_until_it_has_saved(tmp_path: Path) -> None:
    process = started(tmp_path / "mark", LISTENS)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # the same press, handed on by a launcher
    time.sleep(0.6)
    assert process.poll() is None
    (tmp_path / "saved").touch()
    assert ended(process) == (75, "")


@pytest.mark.parametrize(("second", "variables"), [(signal.SIGINT, {}), (signal.SIGTERM, {"TORCHELASTIC_RUN_ID": "x"})])
def test_a_second_press_ends_at_once_whoever_listens(
    tmp_path: Path, second: signal.Signals, variables: dict[str, str]
) -> None:
    process = started(tmp_path / "mark", LISTENS, **variables)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    process.send_signal(second)
    assert ended(process) == (130, "Ctrl-C a second time: ended at once 2\n")


def test_sigterm_after_a_press_is_no_second_one_without_torchrun(tmp_path: Path) -> None:
    process = started(tmp_path / "mark", LISTENS)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    (tmp_path / "saved").touch()
    assert ended(process) == (75, "")
