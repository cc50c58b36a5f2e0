"""Processes that another one starts, and the signals that it hands on to them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.distributed.process.children import Stopped, Supervisor
from trainer.distributed.process.signals import SIGNALS, handled

COUNTING = """
import pathlib, signal, sys, time
def told(number, _):
    with open(sys.argv[1], "a") as file:
        print(number, file=file)
    if number == signal.SIGUSR2:
        sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, told)
pathlib.Path(sys.argv[1]).touch()
time.sleep(20)
"""
"""A process that writes down what it is told, and ends at SIGUSR2."""


@pytest.fixture
def unharmed() -> Iterator[None]:
    """A signal that a broken supervisor lets through does not end the tests."""
    with handled([*SIGNALS, signal.SIGUSR1], lambda *_: None):
        yield


def child(heard: Path) -> list[str]:
    return [sys.executable, "-c", COUNTING, str(heard)]


@pytest.mark.usefixtures("unharmed")
def test_every_signal_is_passed_on_again_and_what_is_running_ends_as_it_likes(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    left = [signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM]

    def meanwhile() -> None:
        if left and heard.exists() and len(heard.read_text().split()) == 4 - len(left):
            os.kill(os.getpid(), left.pop())

    with Supervisor().listening() as supervisor:
        assert supervisor.run(child(heard), os.environ, meanwhile=meanwhile) == 75
        assert supervisor.received == {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
        with pytest.raises(Stopped):
            supervisor.run(child(tmp_path / "second"), os.environ)
    assert not (tmp_path / "second").exists()
    assert list(map(int, heard.read_text().split())) == [15, signal.SIGUSR1, 15, signal.SIGUSR2]


@pytest.mark.usefixtures("unharmed")
def test_a_question_that_comes_while_a_process_starts_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def asked_while_starting(command: list[str], env: dict[str, str], **_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return start(command, env=env)

    monkeypatch.setattr(subprocess, "Popen", asked_while_starting)
    with Supervisor().listening() as supervisor:
        assert supervisor.run([sys.executable, "-c", ""], os.environ) == 0
        assert supervisor.received == {signal.SIGUSR1}
        assert not supervisor.told_to_stop


def test_signals_go_afterwards_to_what_they_went_to_before() -> None:
    heard: list[int] = []
    with handled([signal.SIGUSR2], lambda number, _: heard.append(number)):
        with Supervisor().listening() as supervisor:
            os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert supervisor.received == {signal.SIGUSR2}
    assert heard == [signal.SIGUSR2]


def test_a_process_that_a_signal_ends_says_which(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os, signal; print('said', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    with log.open("wb") as output:
        assert Supervisor().run([sys.executable, "-c", program], os.environ, output) == -signal.SIGKILL
    assert log.read_text() == "said\n"
