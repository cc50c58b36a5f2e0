"""A command that is stopped: one line, 128 + the number of the signal, no traceback."""

import os
import signal
from dataclasses import replace

import pytest

import trainer.__main__
from tests.each import each
from trainer.__main__ import VERBS, main
from trainer.distributed.process.exit_status import VARIABLE, ExitStatus, conclude, read_exit_status, refuse, reported

WORDS = {
    "train": ["toy"],
    "check": ["toy"],
    "sample": ["runs/a", "--out", "a.png"],
    "evaluate": ["runs/a", "--out", "a.json"],
    "pairs": ["runs/a", "--num", "4", "--out", "pairs"],
    "compare": ["a.yaml", "b.yaml", "--out", "out"],
    "mixture": ["toy", "--sizes", "2,4", "--target", "8", "--out", "m.json"],
    "encode": ["runs/a", "--out", "latents"],
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", VARIABLE):
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, *numbers: signal.Signals) -> None:
    """Lets every verb be stopped as soon as it runs."""

    def run(_: object) -> int:
        for number in numbers:
            os.kill(os.getpid(), number)
        return 0

    monkeypatch.setattr(trainer.__main__, "VERBS", tuple(replace(verb, run=run) for verb in VERBS))


@each("verb", WORDS)
@each(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_verb_says_in_one_line_that_it_was_stopped(
    verb: str, number: signal.Signals, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, number)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        main([verb, *WORDS[verb]])
    left = "nothing was saved" if verb == "train" else "it is not finished"
    assert stop.value.code == 128 + number
    assert capsys.readouterr() == ("", f"trainer {verb}: stopped by {name}; {left}\n")
    assert signal.getsignal(number) == before


def test_one_rank_speaks_for_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    told(monkeypatch, signal.SIGINT)
    with pytest.raises(SystemExit):
        main(["train", "toy"])
    assert capsys.readouterr().err == ""


def test_ranks_that_torchrun_ends_after_a_failure_do_not_add_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    told(monkeypatch, signal.SIGTERM)
    with pytest.raises(SystemExit):
        main(["train", "toy"])
    assert capsys.readouterr().err == ""


def test_a_launcher_that_asks_is_told_in_place_of_a_person(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status_file = tmp_path_factory.mktemp("launcher") / "status_file"
    conclude(75, "to a person")
    assert capsys.readouterr().err == "to a person\n"
    monkeypatch.setenv(VARIABLE, str(status_file))
    assert read_exit_status(status_file) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    conclude(75, "another rank speaks for this node")
    assert read_exit_status(status_file) is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    conclude(75, "saved at step 3")
    assert read_exit_status(status_file) == ExitStatus(75, "saved at step 3")
    assert (reported(75), reported(1), reported(2)) == (0, 1, 2)
    refuse("a stop is not overwritten")
    assert read_exit_status(status_file) == ExitStatus(75, "saved at step 3")
    assert reported(0) == 0
    assert read_exit_status(status_file) == ExitStatus(0, "")
    assert capsys.readouterr().err == ""


def test_wrong_input_reaches_the_launcher(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status_file = tmp_path_factory.mktemp("launcher") / "status_file"
    monkeypatch.setenv(VARIABLE, str(status_file))

    def run(_: object) -> int:
        raise ValueError("optim.lr: is wrong; mend it")

    monkeypatch.setattr(trainer.__main__, "VERBS", tuple(replace(verb, run=run) for verb in VERBS))
    assert main(["check", "toy"]) == 2
    line = capsys.readouterr().err.rstrip("\n")
    assert read_exit_status(status_file) == ExitStatus(2, line)
